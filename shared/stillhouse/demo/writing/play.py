"""Plays the traffic of the writing demo: what teaches at once, what judges when it is asked for, then steadily."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from stillhouse.demo.player import Asks, Tally
from stillhouse.demo.watcher import State
from stillhouse.demo.writing.sample import Pair
from stillhouse.demo.writing.source import WritingPlan
from stillhouse.events import InferenceCompleted, InferenceRequested

PATIENCE_S: Final = 300.0  # then a request counts as lost
FIRST_CASES: Final = 250  # for the first look of the offline gate; it says itself how many more it needs
MORE: Final = 1.1  # times what the gate asks for
AT_ONCE: Final = 8  # requests in flight while a student answers: a closed loop, for two cores write slowly
SHADOW_S: Final = 0.7  # between questions in shadow, where the student is asked beside
QUICK: Final = 64  # and while only the recorded teacher does


class WritingPlayer:
    """Sends the plan's questions to the state of the loop, and counts what becomes of them."""

    def __init__(
        self, client: Asks, plan: WritingPlan, state: State, tally: Tally, *, served: int, limit_s: float
    ) -> None:
        self._client, self._plan, self._state, self._tally = client, plan, state, tally
        self._served, self._limit_s = served, limit_s
        self._under_way: set[asyncio.Task[None]] = set()

    async def play(self) -> str | None:
        """Send until the student has served for long enough; gives what was not reached, or None."""
        begun = asyncio.get_running_loop().time()
        await self._send_all(iter(self._plan.taught), len(self._plan.taught), QUICK)
        supply, left = iter(self._plan.rest), len(self._plan.rest)
        judged, live_since = 0, None
        while True:
            state = self._state
            if asyncio.get_running_loop().time() - begun > self._limit_s:
                return f"the time of {self._limit_s:.0f} s is over and {self._awaited()}"
            if state.live is not None:
                live_since = self._tally.sent if live_since is None else live_since
                if self._tally.sent - live_since >= self._served:
                    await self._quiet()
                    return None
            if (lacking := self._wants_more(judged + left)) is not None:
                return f"the offline gate needs about {lacking:,} more answers, and {left:,} questions are left"
            wanted, pace = self._wanted(judged, judged + left)
            if wanted == 0:
                if (ended := self._ended()) is not None:
                    return ended
                await asyncio.sleep(0.5)
                continue
            if left == 0:
                return f"all questions are sent and {self._awaited()}"
            wanted = min(wanted, left)
            await self._send_all(supply, wanted, pace)
            if state.live is None and state.candidate and state.stage == "shadow":
                await asyncio.sleep(SHADOW_S)  # the teacher answers at once, and would not hold the sender back
            left -= wanted
            judged += wanted if not state.candidate and state.live is None else 0

    async def stop(self) -> None:
        """Follow nothing any more."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _wanted(self, judged: int, most: int) -> tuple[int, int]:
        """How many questions to send now, and how many of them at once; `most` can be judged in all."""
        state = self._state
        if state.live is not None or state.candidate:
            return 1, AT_ONCE
        if not state.trained:
            return 0, QUICK
        needs = FIRST_CASES
        for gate in state.gates.values():
            if gate.stage == "offline" and gate.needs_more:
                needs = max(needs, gate.n + round(MORE * gate.needs_more))
        return max(0, min(needs, most) - judged), QUICK

    def _wants_more(self, most: int) -> int | None:
        """Cases that an open offline gate waits for, where it cannot have them: it looks again only when it has."""
        state = self._state
        if state.candidate or state.live is not None:
            return None
        asks = [
            (gate.n, gate.needs_more) for gate in state.gates.values() if gate.stage == "offline" and gate.needs_more
        ]
        judged, more = asks[-1] if asks else (0, 0)
        return more if judged + more > most else None

    def _ended(self) -> str | None:
        """Why nothing will happen any more, where that is so."""
        state = self._state
        if state.failed and not state.training:
            return f"training failed: {max(state.failed.values(), key=lambda one: one.time).error}"
        final = [gate for gate in state.gates.values() if gate.final and gate.verdict != "passed"]
        if final and not state.candidate and state.live is None:
            return f"the {final[-1].stage} gate {final[-1].verdict}: {final[-1].reason}"
        return None

    def _awaited(self) -> str:
        return "no student is live" if self._state.live is None else "the student has not served for long enough"

    async def _send_all(self, supply: Iterator[Pair], n: int, at_once: int) -> None:
        for _ in range(n):
            while len(self._under_way) >= at_once:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                self._collect()
            pair = next(supply)
            request = InferenceRequested(
                task=self._plan.plan.task, input=pair.input, deadline_ms=int(1000 * PATIENCE_S), group=pair.group[:200]
            )
            self._tally.sent += 1
            self._under_way.add(asyncio.create_task(self._follow(request)))
        self._collect()

    async def _quiet(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way)
            self._collect()

    async def _follow(self, request: InferenceRequested) -> None:
        answer = await self._client.submit(request)
        done, _ = await asyncio.wait([answer], timeout=PATIENCE_S)
        self._count(next(iter(done)).result() if done else None)

    def _count(self, completed: InferenceCompleted | None) -> None:
        failure = completed.failure if completed is not None else None
        if completed is None or (failure is not None and failure.code == "lost"):
            self._tally.lost += 1
        elif failure is not None:
            self._tally.errors[failure.code] += 1
        else:
            self._tally.answered += 1

    def _collect(self) -> None:
        ended = {task for task in self._under_way if task.done()}
        self._under_way -= ended
        for task in ended:
            task.result()
