"""An OpenAI-compatible endpoint whose answers come when the test says so: the slow part of a real teacher."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class SlowLlm:
    """Answers the label that the question offers first, after `delay_s`, or when `release` is set if that is later."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.delay_s = 0.0
        self.release = asyncio.Event()
        self.release.set()
        self.asked: Counter[str] = Counter()  # by text

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[SlowLlm]:
        app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_config=None, access_log=False, lifespan="off"
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield self
        finally:
            self.release.set()
            server.should_exit = server.force_exit = True
            await serving

    async def _complete(self, request: Request) -> JSONResponse:
        asked = await request.json()
        self.asked[asked["messages"][1]["content"]] += 1
        await asyncio.sleep(self.delay_s)  # what makes it slow
        await self.release.wait()
        labels = json.loads(asked["messages"][0]["content"].rpartition("Labels: ")[2])
        said = {"role": "assistant", "content": json.dumps({"label": labels[0]})}
        return JSONResponse(
            {
                "id": "slow",
                "object": "chat.completion",
                "created": 0,
                "model": asked["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": said}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            }
        )
