"""A teacher behind any OpenAI-compatible endpoint, through a lean client: this is the path that every request takes.

A refusal that may pass (429, 5xx, a broken connection) is tried again, twice at most, after what `Retry-After` says or
a growing, jittered pause; a refusal that will not (400, 401, 404) is not. How long all of it may take is the caller's.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any, Final

import aiohttp

from stillhouse.models.chat.completion import Completion, finish_of
from stillhouse.models.chat.request import ChatRequest, ToolCall
from stillhouse.models.port import ModelError

ATTEMPTS: Final = 3
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 20.0
CONNECT_S: Final = 10.0
MOST_BYTES: Final = 16_000_000  # of an answer: what is larger is no answer
PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

Price = Callable[[int, int], float]  # input tokens, output tokens -> USD


class OpenAITeacher:
    """Asks one model of one endpoint. The key is read from the environment at the first call, and never shown."""

    def __init__(self, base_url: str, model: str, api_key_env: str, price: Price) -> None:
        """`price` gives the USD of a call from its tokens; the endpoint is asked for nothing else than completions."""
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._key_env = api_key_env
        self._price = price
        self._session: aiohttp.ClientSession | None = None

    @property
    def version(self) -> str:
        """The model's name, as the endpoint knows it."""
        return self._model

    async def complete(self, request: ChatRequest) -> Completion:
        """The endpoint's first choice. Raises `ModelError`."""
        body = json.dumps(request.upstream(self._model), ensure_ascii=False).encode()
        started = time.perf_counter()
        for attempt in range(1, ATTEMPTS + 1):
            status, said, after = await self._post(body)
            if status == 200:
                return self._read(said, started)
            if status not in PASSING and status != 0:
                raise ModelError(f"the teacher {self._model} refused with status {status}{_told(said)}")
            if attempt < ATTEMPTS:
                growing = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                await asyncio.sleep(min(LONGEST_PAUSE_S, growing if after is None else after))
        why = f"answered with status {status}{_told(said)}" if status else f"could not be reached ({said.decode()})"
        raise ModelError(f"the teacher {self._model} {why}, {ATTEMPTS} times")

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, body: bytes) -> tuple[int, bytes, float | None]:
        """Status, body and `Retry-After`; status 0 with the reason where there was no answer."""
        try:
            async with self._connected().post(self._url, data=body) as reply:
                said = await reply.content.read(MOST_BYTES + 1)
                while len(said) <= MOST_BYTES and not reply.content.at_eof():
                    said += await reply.content.read(MOST_BYTES + 1 - len(said))
                if len(said) > MOST_BYTES:
                    raise ModelError(f"the teacher {self._model} sent more than {MOST_BYTES:,} bytes")
                return reply.status, said, _seconds(reply.headers.get("Retry-After"))
        except (aiohttp.ClientError, OSError) as error:
            return 0, type(error).__name__.encode(), None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json"}
            if key := os.environ.get(self._key_env):
                headers["Authorization"] = f"Bearer {key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
                connector=aiohttp.TCPConnector(limit=0),  # how many at once is the task's setting
                trust_env=False,
            )
        return self._session

    def _read(self, said: bytes, started: float) -> Completion:
        try:
            reply: dict[str, Any] = json.loads(said)
            choice = reply["choices"][0]
            message, usage = choice["message"], reply.get("usage") or {}
            calls = tuple(ToolCall.model_validate(call) for call in message.get("tool_calls") or ())
            content = message.get("content")
            if content is not None and not isinstance(content, str):
                raise TypeError("content is no text")
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the teacher {self._model} answered with no completion ({type(error).__name__})"
            ) from None
        return Completion(
            content=content,
            tool_calls=calls,
            finish_reason=finish_of(choice.get("finish_reason"), calls=bool(calls)),
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cost_usd=self._price(*tokens),
            latency_ms=1000 * (time.perf_counter() - started),
        )


def _told(said: bytes) -> str:
    """The endpoint's own words about an error, where they are in OpenAI's shape; never the whole body."""
    try:
        message = json.loads(said)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({message[:200]})" if isinstance(message, str) else ""


def _seconds(retry_after: str | None) -> float | None:
    """Of a `Retry-After` in seconds; dates are not taken."""
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None
