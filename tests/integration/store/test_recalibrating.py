"""Rounds of recalibration on a real store: each audit once, each round published, whatever is restarted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.validator.recalibrating import Recalibrating
from stillhouse.events import ArtefactRef, Event, StudentRoute, ThresholdRecalibrated
from stillhouse.store import AuditRow, RouteRow, Store
from stillhouse.tasks import Cascade
from stillhouse.tasks.comparators import Comparison
from tests.integration.store.rows import at, audit, route
from tests.unit.validator.audits import audit as audited
from tests.unit.validator.audits import make_task

TASK = make_task(name="a").model_copy(update={"cascade": Cascade(recalibrate_every=300)})
STUDENT = StudentRoute(
    student_id="s1",
    architecture="hashed_ngrams",
    artefact=ArtefactRef(uri="file:///s1", sha256="f" * 64, size=1),
    threshold=0.9,
    since=at(0),
)


class Said:
    """Keeps what is published; fails the first `failing` times, as a broker that is away does."""

    def __init__(self, failing: int = 0) -> None:
        self.events: list[ThresholdRecalibrated] = []
        self._failing = failing

    async def __call__(self, event: Event) -> None:
        if self._failing:
            self._failing -= 1
            raise ConnectionError
        assert isinstance(event, ThresholdRecalibrated)
        self.events.append(event)


def rows(numbers: Sequence[int], stage: str = "live", student: str = "s1") -> list[AuditRow]:
    """Audits of a student that is hardly ever wrong: a confidence of 0.9 is much more than it needs."""
    rng = np.random.default_rng(numbers[0])
    made = []
    for i in numbers:
        confidence, right = float(rng.random()), bool(rng.random() < 0.99)
        told: dict[str, Any] = {"stage": stage, "student_output": "yes" if right else "no"}
        made.append(replace(audit(i, student), student_confidence=confidence, **told))
    return made


def live_route(version: int, student: StudentRoute | None) -> RouteRow:
    row = route(version)
    event = route_event(row).model_copy(update={"live": student, "stage": "live" if student else "teacher"})
    return replace(row, event=event.model_dump_json(), stage=event.stage)


def route_event(row: RouteRow):
    from stillhouse.events import RouteChanged

    return RouteChanged.model_validate_json(row.event)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    kept = Store(tmp_path / "store")
    kept.append_audits(rows(range(200), "canary"))
    kept.append_routes([live_route(1, STUDENT)])
    return kept


def recalibrating(store: Store, tmp_path: Path, said: Said) -> Recalibrating:
    return Recalibrating({TASK.key: TASK}, store, said, tmp_path)


async def test_every_so_many_live_audits_make_a_round_and_none_is_used_twice(store: Store, tmp_path: Path) -> None:
    said = Said()
    service = recalibrating(store, tmp_path, said)
    store.append_audits(rows(range(200, 499)))
    assert await service.check(TASK) is None
    store.append_audits(rows(range(499, 700)))
    assert (await service.check(TASK)).round == 1
    assert await service.check(TASK) is None
    # After a restart too.
    service = recalibrating(store, tmp_path, said)
    assert await service.check(TASK) is None
    store.append_audits(rows(range(700, 800)))
    assert (await service.check(TASK)).round == 2
    first, second = said.events
    assert (first.n, second.n, first.moved) == (300, 300, True)
    assert first.threshold < 0.9 == first.previous_threshold
    assert first.id != second.id


async def test_a_round_compares_answers_as_the_task_does(store: Store, tmp_path: Path) -> None:
    said = Said()
    store.append_audits(rows(range(200, 500)))
    never = Comparison(lambda student, teacher: 0.0)
    service = Recalibrating({TASK.key: TASK}, store, said, tmp_path, {TASK.key: never})
    assert (await service.check(TASK)).threshold > 0.9, "nothing that the student says is what the teacher says"


async def test_a_round_that_was_not_published_is_published_later_as_it_was(store: Store, tmp_path: Path) -> None:
    store.append_audits(rows(range(200, 500)))
    with pytest.raises(ConnectionError):
        await recalibrating(store, tmp_path, Said(failing=1)).check(TASK)
    store.append_audits(rows(range(150, 160), student="s2"))
    store.append_audits(rows(range(500, 600)))
    said = Said()
    again = await recalibrating(store, tmp_path, said).check(TASK)
    assert [event.id for event in said.events] == [again.id]
    assert (again.round, again.n) == (1, 300)


async def test_without_a_live_student_there_is_no_round(store: Store, tmp_path: Path) -> None:
    store.append_audits(rows(range(200, 700)))
    store.append_routes([live_route(2, None)])
    assert await recalibrating(store, tmp_path, Said()).check(TASK) is None


async def test_other_stages_and_other_students_do_not_count(store: Store, tmp_path: Path) -> None:
    store.append_audits(rows(range(200, 600), "canary"))
    store.append_audits(rows(range(600, 1000), student="s2"))
    assert await recalibrating(store, tmp_path, Said()).check(TASK) is None


def test_the_store_is_read_only_when_there_may_be_a_round(store: Store, tmp_path: Path) -> None:
    service = recalibrating(store, tmp_path, Said())
    service.audited([audited(1, "canary", task="a")])
    assert not service._dirty
    service.audited([audited(1, "live", task="a")])
    assert service._dirty == {TASK.key}
