"""Who is live, which audits concern that student, and when an alarm is over."""

from __future__ import annotations

from services.drift_monitor.standing import Standing, alarmed, cleared, concerns, rebuild, routed
from tests.unit.drift_monitor.events import audit, live


def fold(*routes) -> Standing:
    standing = Standing()
    for route in routes:
        standing = routed(standing, route)
    return standing


def test_older_routes_change_nothing_and_a_new_beginning_does() -> None:
    standing = fold(live(3, "s1"))
    assert routed(standing, live(2, None)) == standing
    assert routed(standing, live(3, "s1")) == standing
    began_anew = live(1, None).model_copy(update={"time": live(9, None).time})
    assert routed(standing, began_anew).version == 1
    assert Standing.model_validate_json(standing.model_dump_json()) == standing


def test_audits_of_a_former_student_do_not_count_and_those_ahead_of_the_route_do() -> None:
    standing = fold(live(3, "s1"))
    assert concerns(standing, audit(1))
    assert concerns(standing, audit(1, student_id="s2", route_version=4))
    gone = routed(standing, live(4, None))
    assert not concerns(gone, audit(1))
    assert not concerns(alarmed(standing, "s1"), audit(1, route_version=9))


def test_an_alarm_is_over_when_another_student_is_live() -> None:
    open_ = alarmed(fold(live(3, "s1")), "s1")
    assert cleared(open_, live(4, None)) is None
    assert cleared(open_, live(4, "s1")) is None
    back = routed(open_, live(4, None))
    assert back.alarmed == "s1"
    event = cleared(back, live(5, "s2"))
    assert event is not None
    assert (event.student_id, event.previous_student_id) == ("s2", "s1")
    again = cleared(back, live(5, "s2"))
    assert again is not None
    assert again.id == event.id
    after = routed(back, live(5, "s2"))
    assert after.alarmed is None
    assert cleared(after, live(5, "s2")) is None
    assert cleared(after, live(6, "s3")) is None


def test_an_alarm_about_a_student_that_was_replaced_opens_nothing() -> None:
    standing = fold(live(3, "s1"), live(4, "s2"))
    assert alarmed(standing, "s1") == standing


def test_the_trace_is_that_of_the_route_that_brought_the_student() -> None:
    standing = routed(Standing(), live(3, "s1"), "its-life")
    assert routed(standing, live(4, "s1"), "a-candidate").traceparent == "its-life"


def test_the_history_of_routes_tells_of_open_alarms() -> None:
    drifted = live(4, None, changed_by="drift.detected", retired=["s1"])
    standing = rebuild([drifted, live(3, "s1")])
    assert (standing.live, standing.alarmed, standing.version) == (None, "s1", 4)
    assert rebuild([live(3, "s1"), drifted, live(5, "s2")]).alarmed is None
    assert rebuild([]) == Standing()
