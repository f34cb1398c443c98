"""A stand-in for Anthropic's Messages API: says what the test wants, remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stillhouse.embedded.ports import free_port


class StandIn:
    """`pieces` is the answer's text; `before` are replies that come before any answer; `cut` breaks a stream off."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.pieces = ["fi", "ne"]
        self.before: list[Response] = []
        self.cut = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[StandIn]:
        app = Starlette(routes=[Route("/v1/messages", self._answer, methods=["POST"])])
        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield self
        finally:
            server.should_exit = server.force_exit = True
            await serving

    async def _answer(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.before:
            return self.before.pop(0)
        if self.asked[-1].get("stream"):
            return StreamingResponse(self._events(), media_type="text/event-stream")
        return JSONResponse(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "claude",
                "content": [{"type": "text", "text": "".join(self.pieces)}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 11, "output_tokens": 7},
            }
        )

    async def _events(self) -> AsyncIterator[bytes]:
        usage = {"input_tokens": 11, "output_tokens": 1}
        yield _event({"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": usage}})
        yield _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        yield _event({"type": "ping"})
        for piece in self.pieces:
            delta = {"type": "text_delta", "text": piece}
            yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
        if self.cut:
            return
        yield _event({"type": "content_block_stop", "index": 0})
        yield _event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}})
        yield _event({"type": "message_stop"})


def refusal(status: int, kind: str, message: str) -> JSONResponse:
    """An error as the API words it; it may be asked again at once."""
    return JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status, {"retry-after": "0"})


def _event(body: dict[str, Any]) -> bytes:
    return f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode()
