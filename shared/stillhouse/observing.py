"""Recording the calls that an application makes to its own teacher, without standing in their way.

A call's result, its exceptions and its duration stay what they are: what is recorded is put into a bounded queue, and
whatever goes wrong behind it is counted and logged once. Texts are in the published events, never in logs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from stillhouse.bus import TooLarge, encode
from stillhouse.events import Answer, InferenceCompleted, follow_id, new_id

WAITING: Final = 10_000  # calls that may wait to be sent; later ones are dropped, and counted
DRAIN_S: Final = 10.0

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("stillhouse.client")


class Observations:
    """Calls on their way to the log. `take` may be called from any thread, before `start` too."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._waiting: deque[InferenceCompleted] = deque()
        self._unacknowledged: set[asyncio.Future[Any]] = set()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: asyncio.Task[None] | None = None
        self._closing = False
        self.lost = 0  # calls that were not recorded

    def start(self, producer: AIOKafkaProducer) -> None:
        """Send what waits, and what comes, with `producer` on the running event loop."""
        self._loop, self._closing = asyncio.get_running_loop(), False
        self._sending = asyncio.create_task(self._send(producer))

    async def close(self) -> None:
        """Send what waits, for at most 10 s."""
        sending, self._sending, self._closing = self._sending, None, True
        self._wake.set()
        if sending is not None:
            try:
                await asyncio.wait_for(sending, DRAIN_S)
            except TimeoutError:
                # Some of them may be in the log all the same: it did not say so.
                late, self._unacknowledged = self._unacknowledged, set()
                self.lose(len(self._waiting) + len(late), f"the log did not take it within {DRAIN_S:g} s")
                self._waiting.clear()
        self._loop = None
        if self.lost > 1:
            log.warning("In all, %d observed calls were not recorded.", self.lost)

    def take(self, event: InferenceCompleted) -> None:
        """Have `event` sent. Never waits, never raises."""
        if len(self._waiting) >= WAITING:
            self.lose(1, f"{WAITING:,} wait already")
            return
        self._waiting.append(event)
        loop = self._loop
        if loop is not None and not self._wake.is_set():
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the loop has ended; nothing will be sent any more
                self.lose(1, "the client's event loop has ended")

    def lose(self, count: int, why: str) -> None:
        """Count calls that are not recorded; the first is logged with its reason."""
        if count and not self.lost:
            log.warning("An observed call was not recorded: %s. Later ones are only counted.", why)
        self.lost += count

    async def _send(self, producer: AIOKafkaProducer) -> None:
        while True:
            await self._wake.wait()
            # Cleared before the queue is emptied: what is put in after that wakes this loop again.
            self._wake.clear()
            while self._waiting:
                await self._publish(producer, self._waiting.popleft())
            if self._closing:
                await producer.flush()
                await asyncio.sleep(0)  # the last records' callbacks
                return

    async def _publish(self, producer: AIOKafkaProducer, event: InferenceCompleted) -> None:
        try:
            record = encode(event, source=self._source)
            sent = await producer.send(record.topic, record.value, key=record.key, headers=record.headers)
        except (TooLarge, KafkaError) as error:
            self.lose(1, str(error) or type(error).__name__)
        except asyncio.CancelledError:
            self.lose(1, "the client was closed")
            raise
        else:
            self._unacknowledged.add(sent)
            sent.add_done_callback(self._sent)

    def _sent(self, sent: asyncio.Future[Any]) -> None:
        error = None if sent.cancelled() else sent.exception()
        if sent not in self._unacknowledged:  # the client was closed, and counted it
            return
        self._unacknowledged.discard(sent)
        if sent.cancelled() or error is not None:
            self.lose(1, str(error) or type(error).__name__)


def observed(
    function: Callable[P, R],
    observations: Observations,
    *,
    task: str,
    tenant: str,
    model: str,
    input: Callable[..., str] | None,
    output: Callable[[Any], str] | None,
) -> Callable[P, R]:
    """`function` (sync or async), recorded. `ValueError` for a task or tenant that cannot be one."""
    try:
        InferenceCompleted(tenant=tenant, task=task, request_id="none")
    except ValidationError as error:
        where, value = error.errors()[0]["loc"][0], error.errors()[0]["input"]
        raise ValueError(
            f"{where} {value!r} cannot be one: use lower-case letters, digits, '.', '_' and '-', at most 63."
        ) from None

    def note(args: tuple[Any, ...], kwargs: dict[str, Any], result: object, started: float) -> None:
        latency_ms = (time.perf_counter() - started) * 1000
        try:
            asked = input(*args, **kwargs) if input is not None else _first_text(args, kwargs)
            said = output(result) if output is not None else result
            if not isinstance(asked, str) or not asked:
                observations.lose(1, "no argument is a text; name it: observe(..., input=lambda ...: text)")
            elif not isinstance(said, str):
                observations.lose(1, "the result is no text; say what is: observe(..., output=lambda result: text)")
            else:
                observations.take(_event(tenant, task, model, asked, said, latency_ms))
        except Exception as error:  # of the user's selectors; their messages may hold texts
            observations.lose(1, f"its selector raised {type(error).__name__}")

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*args: P.args, **kwargs: P.kwargs) -> Any:
            started = time.perf_counter()
            result = await function(*args, **kwargs)
            note(args, kwargs, result, started)
            return result

        return cast(Callable[P, R], asynchronous)

    @functools.wraps(function)
    def synchronous(*args: P.args, **kwargs: P.kwargs) -> R:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        note(args, kwargs, result, started)
        return result

    return synchronous


def _first_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, str)), None)


def _event(tenant: str, task: str, model: str, asked: str, said: str, latency_ms: float) -> InferenceCompleted:
    request_id = new_id()
    # What the application's teacher says is taken at its word: it gives an answer, and no distribution.
    answer = Answer(output=said, confidence=1.0, distribution={said: 1.0}, model=model, latency_ms=latency_ms)
    return InferenceCompleted(
        id=follow_id(request_id, InferenceCompleted.TYPE, request_id),
        tenant=tenant,
        task=task,
        request_id=request_id,
        input=asked,
        output=said,
        served_by="teacher",
        reason="no_student",
        purpose="observe",
        teacher=answer,
        latency_ms=latency_ms,
    )
