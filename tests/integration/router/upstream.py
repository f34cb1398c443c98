"""A stand-in for a paid endpoint: says what the test wants, remembers what it was asked."""

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


class Upstream:
    """An OpenAI-compatible server. `say` is the next message; `before` are replies that come before any answer."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.say: dict[str, Any] = {"role": "assistant", "content": "fine"}
        self.finish = "stop"
        self.before: list[Response] = []
        self.pieces: list[str] = []  # of a streamed answer; the next one only when `go` is set
        self.go = asyncio.Event()
        self.cut = False  # the stream ends in mid-answer
        self.drip_s: float | None = None  # seconds between the bytes of an answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Upstream]:
        app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])
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

    async def _complete(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        self.asked.append(await request.json())
        if self.before:
            return self.before.pop(0)
        if self.drip_s is not None:
            return StreamingResponse(self._drops(), media_type="application/json")
        if self.asked[-1].get("stream") and self.pieces:
            return StreamingResponse(self._events(), media_type="text/event-stream")
        choice = {"index": 0, "finish_reason": self.finish, "message": self.say}
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        return JSONResponse(
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        )

    async def _drops(self) -> AsyncIterator[bytes]:
        for byte in json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": self.say}]}).encode():
            yield bytes([byte])
            await asyncio.sleep(self.drip_s or 0.0)

    async def _events(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await self.go.wait()
            self.go.clear()
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        if self.cut:
            return
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield _event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})
        yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"
