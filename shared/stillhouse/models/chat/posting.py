"""Asking an endpoint for a completion, through a lean client: this is the path that every request takes.

A refusal that may pass (429, 5xx, a broken connection) is tried again, twice at most, after what `Retry-After` says or
a growing, jittered pause; a refusal that will not (400, 401, 404) is not. How long all of it may take is the caller's.
Trying again is budgeted over all calls: an endpoint that is overloaded must not get three times the load. There is no
circuit breaker here, for behind a teacher stands nobody who could answer instead.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from stillhouse.models.chat.completion import Completion, OnText, finish_of
from stillhouse.models.chat.replies import MOST_BYTES, NoCompletion, Reply
from stillhouse.models.port import ModelError

ATTEMPTS: Final = 3
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 20.0
CONNECT_S: Final = 10.0
MOST_OF_AN_ERROR: Final = 100_000  # bytes
RETRIES: Final = 10.0  # that may be saved up
RETRIES_A_CALL: Final = 0.2  # that each call saves
PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

Price = Callable[[int, int], float]  # input tokens, output tokens -> USD
ReadWhole = Callable[[bytes], Reply]
ReadStream = Callable[[AsyncIterable[bytes], OnText], Awaitable[Reply]]


class Posting:
    """Posts JSON to one URL and reads completions, whole or in pieces."""

    def __init__(
        self,
        url: str,
        model: str,
        headers: Callable[[], Mapping[str, str]],
        readers: tuple[ReadWhole, ReadStream],
        price: Price,
    ) -> None:
        """`headers` are asked for at the first call; `price` gives the USD of a call from its tokens."""
        self._url = url
        self._model = model
        self._headers = headers
        self._read_whole, self._read_stream = readers
        self._price = price
        self._session: aiohttp.ClientSession | None = None
        self._retries = RetryBudget()

    async def complete(self, asked: Mapping[str, Any], on_text: OnText | None) -> Completion:
        """The completion that `asked` asks for; its text in pieces where `on_text` takes them. Raises `ModelError`."""
        body = json.dumps(asked, ensure_ascii=False).encode()
        started = time.perf_counter()
        refused: Refused | None = None
        self._retries.called()
        for attempt in range(ATTEMPTS):
            if refused is not None:
                growing = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                await asyncio.sleep(min(LONGEST_PAUSE_S, growing if refused.after_s is None else refused.after_s))
            said = await self._post(body, on_text)
            if isinstance(said, Reply):
                return self._priced(said, started)
            refused = said
            if refused.status not in PASSING and refused.status != 0:
                raise ModelError(f"the teacher {self._model} refused with status {refused.status}{refused.told}")
            if attempt + 1 < ATTEMPTS and not self._retries.take():
                raise ModelError(f"{self._why(refused)}; so many calls failed that it is not tried again")
        assert refused is not None
        raise ModelError(f"{self._why(refused)}, {ATTEMPTS} times")

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, body: bytes, on_text: OnText | None) -> Reply | Refused:
        """The reply, or why there is none yet. Raises `ModelError` where it is broken, or broke off in mid-answer."""
        begun = False
        try:
            async with self._connected().post(self._url, data=body) as reply:
                if reply.status != 200:
                    told = words_of(await reply.content.read(MOST_OF_AN_ERROR))
                    return Refused(reply.status, told, _seconds(reply.headers.get("Retry-After")))
                begun = on_text is not None
                try:
                    if on_text is not None and reply.content_type == "text/event-stream":
                        return await self._read_stream(reply.content, on_text)
                    return self._read_whole(await bounded(reply.content))
                except NoCompletion as error:
                    raise ModelError(f"the teacher {self._model} answered with no completion ({error})") from None
        except (aiohttp.ClientError, OSError) as error:
            if begun:  # pieces may be with the client: asked again, it would read the beginning twice
                raise ModelError(f"the teacher {self._model} broke off ({type(error).__name__})") from None
            return Refused(0, f" ({type(error).__name__})", None)

    def _why(self, refused: Refused) -> str:
        why = f"answered with status {refused.status}" if refused.status else "could not be reached"
        return f"the teacher {self._model} {why}{refused.told}"

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Content-Type": "application/json", **self._headers()},
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
                connector=aiohttp.TCPConnector(limit=0),  # how many at once is the task's setting
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def _priced(self, said: Reply, started: float) -> Completion:
        return Completion(
            content=said.content,
            tool_calls=said.tool_calls,
            finish_reason=finish_of(said.finish, calls=bool(said.tool_calls)),
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            cost_usd=self._price(said.input_tokens, said.output_tokens),
            latency_ms=1000 * (time.perf_counter() - started),
        )


class RetryBudget:
    """One call in five may be tried again, over all calls, and ten at once; then first attempts are the only ones."""

    def __init__(self) -> None:
        self._left = RETRIES

    def called(self) -> None:
        """A call begins."""
        self._left = min(RETRIES, self._left + RETRIES_A_CALL)

    def take(self) -> bool:
        """Whether one may be tried again now."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class Refused:
    """No answer: HTTP status (0: nobody was there), the endpoint's own words, and when to ask again."""

    status: int
    told: str
    after_s: float | None


async def bounded(content: aiohttp.StreamReader) -> bytes:
    """All of a reply. Raises `NoCompletion` where it is larger than any answer."""
    said = bytearray()
    async for chunk in content.iter_any():
        said += chunk
        if len(said) > MOST_BYTES:
            raise NoCompletion(f"it is larger than {MOST_BYTES:,} bytes")
    return bytes(said)


def words_of(said: bytes) -> str:
    """The endpoint's own words about an error, where they are in the shape that all have; never the whole body."""
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
