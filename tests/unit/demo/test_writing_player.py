"""The player of the writing demo against a client that answers by hand: what it sends, and with which word it ends."""

from __future__ import annotations

import asyncio

from stillhouse.demo.player import Tally
from stillhouse.demo.watcher import State
from stillhouse.demo.writing.play import FIRST_CASES, WritingPlayer
from stillhouse.demo.writing.sample import Pair
from stillhouse.demo.writing.source import WritingPlan
from stillhouse.events import GateUndecided
from tests.unit.demo.story import at, make_plan, route, trained
from tests.unit.demo.test_player import Platform

TAUGHT, REST = 20, 400
PAIRS = [Pair(f"q{n}", "{}", f"g{n}") for n in range(TAUGHT + REST)]
PLAN = WritingPlan(make_plan(), tuple(PAIRS[:TAUGHT]), tuple(PAIRS[TAUGHT:]), json_answers=True)


def undecided(n: int, needs_more: int) -> GateUndecided:
    return GateUndecided(
        id=f"open-{n}", time=at(n), task="t", student_id="s1", stage="offline", reason="open", n=n, teacher_calls=0,
        evidence=1.0, needs_more=needs_more, final=False,
    )  # fmt: skip


def play(steps) -> tuple[str | None, Tally]:
    """`steps`: what happens once so many requests were sent."""
    state, tally = State("default/t"), Tally()

    def on_request(number: int) -> None:
        for event in steps.get(number, ()):
            state.fold(event)

    player = WritingPlayer(Platform(on_request), PLAN, state, tally, served=5, limit_s=30.0)
    return asyncio.run(player.play()), tally


def test_a_gate_that_needs_more_than_there_is_ends_the_play_at_once() -> None:
    judged = TAUGHT + FIRST_CASES
    missing, tally = play({TAUGHT: [trained("s1", 1)], judged: [undecided(FIRST_CASES, 4750)]})
    assert missing == f"the offline gate needs about 4,750 more answers, and {REST - FIRST_CASES} questions are left"
    assert tally.sent == judged, "what nobody would look at is not asked"


def test_a_gate_gets_what_it_asks_for_and_the_student_serves() -> None:
    judged = TAUGHT + FIRST_CASES
    missing, tally = play(
        {TAUGHT: [trained("s1", 1)], judged: [undecided(FIRST_CASES, 50)], judged + 55: [route(1, 9, "s1")]}
    )
    assert missing is None
    assert tally.sent == tally.answered == judged + 55 + 5


def test_a_gate_that_asks_for_nearly_all_is_waited_for() -> None:
    rest = REST - FIRST_CASES
    steps = {TAUGHT: [trained("s1", 1)], TAUGHT + FIRST_CASES: [undecided(FIRST_CASES, rest - 2)]}
    missing, tally = play(steps | {TAUGHT + REST: [undecided(REST, 10)]})
    assert missing == "the offline gate needs about 10 more answers, and 0 questions are left"
    assert tally.sent == TAUGHT + REST
