"""A live student meets each request's group at that group's threshold, in answers and in audits alike."""

from __future__ import annotations

import pytest

from tests.unit.router.test_spending import World, live, make_task


@pytest.mark.parametrize(("longest", "served_by"), [(None, "student"), (400, "student"), (0, "teacher")])
async def test_a_text_that_is_too_long_is_the_teachers(longest, served_by) -> None:
    route = live()
    route = route.model_copy(update={"live": route.live.model_copy(update={"threshold": 0.5, "longest": longest})})
    world = World(make_task(usd_per_day=None), route, confidence=0.7)
    answered, [audit] = await world.ask(1)
    assert answered.completed.served_by == served_by
    assert audit.would_serve is (served_by == "student")


@pytest.mark.parametrize(
    ("group", "unproven", "threshold", "served_by"),
    [
        (None, None, 0.8, "teacher"),
        (None, 1.01, 0.8, "teacher"),
        ("easy", None, 0.3, "student"),
        ("hard", None, 0.95, "teacher"),
        ("unknown", None, 0.8, "teacher"),
        ("unknown", 0.5, 0.5, "student"),
        ("unknown", 1.01, 1.01, "teacher"),
    ],
)
async def test_which_threshold_decides(group, unproven, threshold, served_by) -> None:
    route = live()
    thresholds = {"group_thresholds": {"easy": 0.3, "hard": 0.95}, "unproven_threshold": unproven}
    route = route.model_copy(update={"live": route.live.model_copy(update=thresholds)})
    world = World(make_task(usd_per_day=None), route, confidence=0.7)
    answered, [audit] = await world.ask(1, group=group)
    assert (answered.completed.served_by, answered.completed.threshold) == (served_by, threshold)
    assert (audit.threshold, audit.would_serve, audit.loss) == (
        threshold,
        served_by == "student",
        served_by == "student",
    )
