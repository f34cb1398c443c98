"""After a restart of the embedded broker the log is empty; the command line still knows every student."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from services.validator.rows import evaluation_row
from stillhouse.cli.history import with_history
from stillhouse.cli.lives import TOPICS, lives
from stillhouse.events import GatePassed
from stillhouse.store import RouteRow, Store
from tests.unit.router.test_controller import follow, to_live, trained


def test_students_verdicts_and_routes_come_from_the_disk_and_nothing_comes_twice(tmp_path) -> None:
    student, verdicts = trained("s"), to_live("s")
    route = follow(*verdicts)
    folder = tmp_path / "jobs" / "j"
    folder.mkdir(parents=True)
    outcome = {"type": student.TYPE, "event": student.model_dump(mode="json"), "task_key": student.task_key}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    store = Store(tmp_path / "store")
    store.append_evaluations([evaluation_row(event, {}) for event in verdicts])
    now = datetime.now(UTC)
    store.append_routes(
        [RouteRow(route.id, now, route.tenant, route.task, route.version, "live", route.model_dump_json())]
    )

    from_disk = with_history([], tmp_path, TOPICS)
    [life] = lives(from_disk)
    assert (life.student_id, life.state, life.bytes) == ("s", "live", 1)
    assert {stage: verdict.verdict for stage, verdict in life.verdicts.items()} == {
        "offline": "passed",
        "shadow": "passed",
        "canary": "passed",
    }
    assert len(with_history([*verdicts, route, student], tmp_path, TOPICS)) == len(from_disk) == 5
    assert all(isinstance(event, GatePassed) for event in with_history([], tmp_path, (GatePassed.TYPE,)))
