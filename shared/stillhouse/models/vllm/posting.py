"""One attempt at one server of one student: a bounded number at once, none while it fails, every failure one error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp

from stillhouse.models.chat.posting import MOST_OF_AN_ERROR, bounded, words_of
from stillhouse.models.chat.replies import NoCompletion
from stillhouse.models.port import ModelError

CONNECT_S: Final = 2.0
FAILURES: Final = 5  # in a row: then nobody asks for a while
REFUSED_S: Final = 5.0

T = TypeVar("T")
BaseUrl = Callable[[], str | None]  # a replica's address with `/v1`; None while it is not ready


class Posting:
    """Posts JSON to the replica of a student. Every failure is a `ModelError`; nothing is tried again."""

    def __init__(self, student_id: str, base_url: BaseUrl, *, concurrency: int, timeout_s: float) -> None:
        self._id = student_id
        self._base_url = base_url
        self._slots = asyncio.Semaphore(concurrency)
        self._breaker = Breaker()
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, path: str, asked: Mapping[str, Any], read: Callable[[bytes], T], *, beside_v1: bool = False
    ) -> T:
        """What `read` makes of the answer's body; it raises `NoCompletion` where that is nothing.

        `path` is one under `/v1`, or beside it.
        """
        async with self._slots:
            url = self._base_url()
            if url is None:
                raise ModelError(f"the student {self._id} is not ready; its replica starts or has failed.")
            self._breaker.enter(self._id)
            root = url.rstrip("/")
            address = f"{root.removesuffix('/v1') if beside_v1 else root}{path}"
            try:
                reply = await self._once(address, json.dumps(asked).encode(), read)
            except NoCompletion as error:
                self._breaker.failed()
                raise ModelError(f"the student {self._id} answered with nothing usable ({error})") from None
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
                self._breaker.failed()
                raise ModelError(f"the student {self._id} could not be asked ({type(error).__name__})") from None
            except asyncio.CancelledError:
                self._breaker.left()
                raise
            self._breaker.well()
            return reply

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _once(self, address: str, body: bytes, read: Callable[[bytes], T]) -> T:
        async with self._connected().post(address, data=body) as said:
            if said.status != 200:
                why = words_of(await said.content.read(MOST_OF_AN_ERROR))
                if said.status < 500:  # it answers; this request is what it does not take
                    self._breaker.well()
                else:
                    self._breaker.failed()
                raise ModelError(f"the student {self._id} refused with status {said.status}{why}")
            return read(await bounded(said.content))

    def _connected(self) -> aiohttp.ClientSession:
        """How many connections there are at once is decided by the slots."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=CONNECT_S),
                connector=aiohttp.TCPConnector(limit=0),
                trust_env=False,
            )
        return self._session


class Breaker:
    """After some failures in a row nobody is let through for a while, then one at a time until one succeeds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._refused_until = 0.0
        self._trying = False

    def enter(self, student_id: str) -> None:
        """Raises `ModelError` where nobody is let through now."""
        if self._failures < FAILURES:
            return
        if self._trying or self._clock() < self._refused_until:
            raise ModelError(f"the student {student_id} failed {self._failures} times in a row; it is tried again soon")
        self._trying = True

    def well(self) -> None:
        """It answered."""
        self._failures = 0
        self._trying = False

    def failed(self) -> None:
        """It did not answer."""
        self._failures += 1
        self._trying = False
        self._refused_until = self._clock() + REFUSED_S

    def left(self) -> None:
        """Whoever asked went away before it answered: that says nothing of it."""
        self._trying = False
