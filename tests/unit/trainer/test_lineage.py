"""Which students MLflow must hear of, and under which alias."""

from __future__ import annotations

from services.trainer.lineage import unlogged, wish_aliases
from stillhouse.bus.jobs import read_json, write_json
from tests.unit.trainer.tasks import route, trained


def ended(home, name: str) -> None:
    folder = home / "jobs" / f"job-of-{name}"
    folder.mkdir(parents=True)
    student = trained(name, 1)
    write_json(folder / "job.json", {"student_id": name})
    write_json(folder / "outcome.json", {"type": student.TYPE, "event": student.model_dump(mode="json")})


def test_a_trained_student_is_logged_once_and_again_when_its_alias_changes(tmp_path) -> None:
    ended(tmp_path, "s1")
    [folder] = unlogged(tmp_path)
    write_json(folder / "mlflow.json", {"run_id": "r", "alias": None})
    assert unlogged(tmp_path) == []

    assert wish_aliases(route(1, 2, live="s1"), tmp_path) == [folder]
    assert read_json(folder / "alias.json") == {"alias": "champion"}
    assert unlogged(tmp_path) == [folder]
    write_json(folder / "mlflow.json", {"run_id": "r", "alias": "champion"})
    assert unlogged(tmp_path) == wish_aliases(route(1, 2, live="s1"), tmp_path) == []


def test_a_route_without_students_and_students_of_others_change_nothing(tmp_path) -> None:
    ended(tmp_path, "s1")
    assert wish_aliases(route(1, 2), tmp_path) == []
    assert wish_aliases(route(1, 2, live="elsewhere"), tmp_path) == []
    assert not list(tmp_path.glob("jobs/*/alias.json"))
