"""Plays the traffic: requests at a constant rate whether or not answers come (open loop), each one followed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol

from stillhouse.demo.source import Plan
from stillhouse.demo.watcher import State
from stillhouse.events import InferenceCompleted, InferenceRequested, now

TRICKLE: Final = 5.0  # requests a second while a student is trained and messages are scarce
UNHURRIED: Final = 20.0  # and while its first verdicts are awaited, which take seconds however much is sent
DUPLICATE_EVERY: Final = 500
PATIENCE_S: Final = 60.0  # then a request counts as lost
REPEAT_WAIT_S: Final = 2.0  # for the remembered answer to a duplicate
MOST_IN_FLIGHT: Final = 256  # beyond it the sender waits: this machine does not keep up with the rate

Phase = Literal["first", "second", "over"]


@dataclass(slots=True)
class Tally:
    """What became of the requests. `lost`: no answer in time, or reported as lost."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    duplicates_sent: set[str] = field(default_factory=set)  # ids of requests that were sent twice
    waited_s: float = 0.0  # that the sender was held back for: the rate was more than this machine answers
    injected_at: datetime | None = None  # when the first message of the changed traffic was sent
    sent_before: int = 0  # requests until then

    @property
    def in_flight(self) -> int:
        """Requests that nothing has become of yet."""
        return self.sent - self.answered - self.lost - sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Cue:
    """What to do next. `missing` says, at the end, what was not reached; None: everything was."""

    phase: Phase
    rate: float
    missing: str | None = None


class Script:
    """The order of the play: a student goes live, the traffic changes, the next student goes live."""

    def __init__(self, plan: Plan, rate: float, limit_s: float) -> None:
        self._plan = plan
        self._rate = rate
        self._limit_s = limit_s
        self._student: str | None = None  # whose live requests are counted
        self._sent_at_live = 0

    def cue(self, state: State, tally: Tally, left: int, elapsed_s: float) -> Cue:
        """What to do after `tally.sent` requests, with `left` messages in the supply of the phase."""
        phase: Phase = "first" if tally.injected_at is None else "second"
        if state.live != self._student:
            self._student, self._sent_at_live = state.live, tally.sent
        served = tally.sent - self._sent_at_live if self._student is not None else 0
        rolled_back = tally.injected_at is not None and any(
            drift.time >= tally.injected_at and drift.student_id != self._student for drift in state.drifts.values()
        )
        sizes = self._plan.sizes
        if phase == "first" and self._student is not None and (served >= sizes.served_before or left == 0):
            return Cue("second", self._rate)
        if phase == "second" and self._student is not None and rolled_back and served >= sizes.served_after:
            return Cue("over", 0.0)
        if elapsed_s > self._limit_s:
            return Cue("over", 0.0, f"the time of {self._limit_s:.0f} s is over and {self._awaited(phase, state)}")
        if left == 0:
            if phase == "second" and self._student is not None and rolled_back:
                return Cue("over", 0.0)
            return Cue("over", 0.0, f"all messages are sent and {self._awaited(phase, state)}")
        slowest = TRICKLE if state.training else UNHURRIED if state.judging else self._rate
        return Cue(phase, min(self._rate, slowest) if self._plan.limited else self._rate)

    def _awaited(self, phase: Phase, state: State) -> str:
        if phase == "first":
            return "no student is live" if state.live is None else "the first student has not served for long enough"
        if not state.drifts:
            return "no drift was detected"
        return "no second student is live"


class Asks(Protocol):
    """What the player needs of `stillhouse.client.Client`."""

    async def submit(self, request: InferenceRequested) -> asyncio.Future[InferenceCompleted]:
        """Publish a request; the future holds its answer."""


class Player:
    """Sends the plan's messages to the script's cues, and counts what becomes of them."""

    def __init__(
        self, client: Asks, plan: Plan, script: Script, state: State, tally: Tally, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._client = client
        self._plan = plan
        self._script = script
        self._state = state
        self._tally = tally
        self._patience_s = patience_s
        self._under_way: set[asyncio.Task[None]] = set()

    async def play(self) -> str | None:
        """Send until the script is over and nothing is in flight; gives what was not reached. Raises `KafkaError`."""
        loop = asyncio.get_running_loop()
        begun = due = loop.time()
        phase: Phase = "first"
        supply: Iterator[str] = (message.text for message in self._plan.first)
        left = len(self._plan.first)
        while True:
            self._raise_failed()
            cue = self._script.cue(self._state, self._tally, left, loop.time() - begun)
            if cue.phase == "over":
                break
            if cue.phase != phase:
                phase, supply, left = cue.phase, (message.text for message in self._plan.second), len(self._plan.second)
                self._tally.injected_at, self._tally.sent_before = now(), self._tally.sent
            self._send(next(supply))
            left -= 1
            full = loop.time()
            while self._tally.in_flight >= MOST_IN_FLIGHT:
                await asyncio.sleep(0.02)
                self._raise_failed()
            self._tally.waited_s += loop.time() - full
            # A late sender catches up with at most a second of requests: a burst is not a constant rate.
            due = max(due + 1 / cue.rate, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))
        while self._under_way:
            await asyncio.wait(self._under_way)
            self._raise_failed()
        return cue.missing

    async def stop(self) -> None:
        """Follow nothing any more."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _send(self, text: str) -> None:
        self._tally.sent += 1
        request = InferenceRequested(
            task=self._plan.task, input=text, deadline_ms=max(1, int(1000 * self._patience_s)), group=None
        )
        number = self._tally.sent
        twice = number % DUPLICATE_EVERY == 0
        if twice:
            self._tally.duplicates_sent.add(request.id)
        # Every other duplicate is sent at once, while the first is on its way; the others after its answer.
        at_once = twice and number % (2 * DUPLICATE_EVERY) == 0
        self._under_way.add(asyncio.create_task(self._follow(request, twice, at_once)))

    async def _follow(self, request: InferenceRequested, twice: bool, at_once: bool) -> None:
        asked = [await self._client.submit(request)]
        if twice and at_once:
            asked.append(await self._client.submit(request))
        done, waiting = await asyncio.wait(asked, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
        for future in waiting:
            future.cancel()
        self._count(next(iter(done)).result() if done else None)
        if twice and not at_once:
            again = await self._client.submit(request)
            # The router may say the remembered answer again, or nothing; the watcher sees if it answered anew.
            await asyncio.wait([again], timeout=REPEAT_WAIT_S)
            again.cancel()

    def _count(self, completed: InferenceCompleted | None) -> None:
        failure = completed.failure if completed is not None else None
        if completed is None or (failure is not None and failure.code == "lost"):
            self._tally.lost += 1
        elif failure is not None:
            self._tally.errors[failure.code] += 1
        else:
            self._tally.answered += 1

    def _raise_failed(self) -> None:
        """The first error of a request that could not be published ends the play."""
        ended = {task for task in self._under_way if task.done()}
        self._under_way -= ended
        for task in ended:
            task.result()
