"""The player against a client that answers by hand: every request is followed, and the script is kept."""

from __future__ import annotations

import asyncio

import pytest

from stillhouse.demo import player as player_module
from stillhouse.demo.player import TRICKLE, UNHURRIED, Cue, Player, Script, Tally
from stillhouse.demo.source import Sizes
from stillhouse.demo.watcher import State
from stillhouse.events import Failure, InferenceRequested
from tests.unit.demo.story import MESSAGE, at, completed, drift, gate, make_plan, route, started, trained

SIZES = Sizes(min_examples=300, min_new_examples=300, served_before=5, served_after=5)


class Platform:
    """Answers at once, forgets the requests in `silent`, refuses those in `refused`; counted from 1."""

    def __init__(self, on_request=lambda number: None, silent=(), refused=(), lost=()) -> None:
        self.asked: list[InferenceRequested] = []
        self._on_request = on_request
        self._silent = silent
        self._refused = refused
        self._lost = lost

    async def submit(self, request: InferenceRequested):
        self.asked.append(request)
        number = len(self.asked)
        self._on_request(number)
        future = asyncio.get_running_loop().create_future()
        if number in self._silent:
            return future
        answer = completed(number, request_id=request.id)
        code = "bad_input" if number in self._refused else "lost" if number in self._lost else None
        if code:
            failure = Failure(code=code, message="no")
            answer = answer.model_copy(update={"status": "error", "failure": failure})
        future.set_result(answer)
        return future


def play(plan, state, platform, rate=1e6, limit_s=60.0, patience_s=60.0) -> tuple[str | None, Tally]:
    tally = Tally()
    script = Script(plan, rate, limit_s)
    missing = asyncio.run(Player(platform, plan, script, state, tally, patience_s=patience_s).play())
    return missing, tally


def test_the_whole_play() -> None:
    state = State("default/t")
    steps = {
        10: [route(1, 10, "s1")],
        25: [drift("s1", 60 * 60 * 24 * 365 * 50), route(2, 26, None, ("s1",))],
        30: [route(3, 31, "s2", ("s1",))],
    }

    def on_request(number: int) -> None:
        for event in steps.get(number, ()):
            state.fold(event)

    missing, tally = play(make_plan(), state, Platform(on_request))
    assert missing is None
    assert tally.sent == tally.answered
    assert tally.injected_at is not None
    assert 15 <= tally.sent_before <= 17  # five requests were answered with the student live
    assert 34 <= tally.sent <= 38
    assert tally.in_flight == 0


def test_without_a_student_all_messages_are_sent_and_that_is_said() -> None:
    missing, tally = play(make_plan(), State("default/t"), Platform())
    assert missing == "all messages are sent and no student is live"
    assert tally.sent == 50


def test_a_time_limit_ends_the_play() -> None:
    missing, tally = play(make_plan(), State("default/t"), Platform(), limit_s=-1.0)
    assert missing == "the time of -1 s is over and no student is live"
    assert tally.sent == 0


def test_refused_silent_and_lost_requests_are_told_apart() -> None:
    platform = Platform(silent={3}, refused={4, 5}, lost={6})
    _, tally = play(make_plan(), State("default/t"), platform, patience_s=0.01)
    assert (tally.sent, tally.answered, tally.lost, dict(tally.errors)) == (50, 46, 2, {"bad_input": 2})


def test_duplicates_have_the_ids_of_their_originals(monkeypatch) -> None:
    monkeypatch.setattr(player_module, "DUPLICATE_EVERY", 10)
    platform = Platform()
    _, tally = play(make_plan(), State("default/t"), platform)
    assert tally.sent == tally.answered == 50
    assert len(tally.duplicates_sent) == 5
    assert len(platform.asked) == 55
    ids = [request.id for request in platform.asked]
    assert {name for name in ids if ids.count(name) == 2} == tally.duplicates_sent


def test_a_log_that_is_gone_ends_the_play() -> None:
    def broken(number: int) -> None:
        if number == 7:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        play(make_plan(), State("default/t"), Platform(broken))


def test_scarce_messages_trickle_while_a_student_is_trained() -> None:
    state = State("default/t")
    state.fold(started("s1", 1))
    own = Script(make_plan(sample=False), 60.0, 100.0)
    assert own.cue(state, Tally(), 50, 1.0) == Cue("first", TRICKLE)
    assert Script(make_plan(), 60.0, 100.0).cue(state, Tally(), 50, 1.0) == Cue("first", 60.0)
    state.fold(trained("s1", 2))
    assert own.cue(state, Tally(), 50, 1.0) == Cue("first", UNHURRIED)
    state.fold(gate("s1", "offline", 3))
    assert own.cue(state, Tally(), 50, 1.0) == Cue("first", UNHURRIED)
    state.fold(gate("s1", "shadow", 4))
    assert own.cue(state, Tally(), 50, 1.0) == Cue("first", 60.0)


def test_a_false_alarm_before_the_change_counts_anew() -> None:
    state, tally = State("default/t"), Tally(sent=10)
    script = Script(make_plan(sizes=SIZES), 60.0, 100.0)
    state.fold(route(1, 1, "s1"))
    script.cue(state, tally, 40, 1.0)
    state.fold(route(2, 2, None, ("s1",)))
    tally.sent = 20
    assert script.cue(state, tally, 30, 2.0).phase == "first"
    state.fold(route(3, 3, "s2", ("s1",)))
    assert script.cue(state, tally, 30, 2.0).phase == "first"
    tally.sent = 25
    assert script.cue(state, tally, 25, 3.0).phase == "second"


def test_a_live_student_and_no_messages_left_change_the_traffic_at_once() -> None:
    state = State("default/t")
    state.fold(route(1, 1, "s1"))
    assert Script(make_plan(sizes=SIZES), 60.0, 100.0).cue(state, Tally(sent=50), 0, 1.0).phase == "second"


def test_the_first_student_is_not_the_second_one() -> None:
    state, tally = State("default/t"), Tally(sent=30, injected_at=at(0))
    state.fold(route(1, 1, "s1"))
    script = Script(make_plan(sizes=SIZES), 60.0, 100.0)
    script.cue(state, tally, 20, 1.0)
    tally.sent = 40
    state.fold(drift("s1", 5))  # detected, but not yet rolled back
    assert script.cue(state, tally, 10, 2.0).phase == "second"
    assert MESSAGE.text == "hello"
