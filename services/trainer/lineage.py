"""`python -m services.trainer.lineage <job folder>`: one ended training job into MLflow, in a process of its own.

MLflow costs seconds to import and 200 MB, so it is neither in the service nor in the way of a new student: the student
is published first, its run is logged after. A run that could not be logged is logged when the trainer starts again. The
registry's aliases follow the route: `champion` is live, `challenger` on its way.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from services.trainer.remedy import candidate_with
from services.trainer.states import OUTCOME_FILE
from stillhouse.bus.jobs import RESULT_FILE, read_json, write_json
from stillhouse.events import RouteChanged, StudentTrained
from stillhouse.registry import afterwards
from stillhouse.store.datasets import erased_datasets
from stillhouse.tasks import Task

MODULE: Final = "services.trainer.lineage"
LOGGED_FILE: Final = "mlflow.json"
ALIAS_FILE: Final = "alias.json"  # the alias that the student should have
SETTLE_S: Final = 10.0  # nobody waits for MLflow, and a new student is trained, judged and promoted within seconds


async def log_regularly(ended: asyncio.Queue[Path], home: Path) -> None:
    """Log every trained student of `home` that needs it, then those that come in `ended`, until cancelled."""
    await afterwards.log_regularly(MODULE, ended, partial(unlogged, home), _is_logged, SETTLE_S)


def unlogged(home: Path) -> list[Path]:
    """Folders of jobs that ended with a student and are not in MLflow as they should be. Blocking."""
    folders = sorted(path.parent for path in (home / "jobs").glob(f"*/{OUTCOME_FILE}"))
    return [folder for folder in folders if _trained(folder) and not _is_logged(folder)]


def wish_aliases(route: RouteChanged, home: Path) -> list[Path]:
    """Note which aliases the students of `route` should have; gives the folders of those that lack them. Blocking."""
    wished = {}
    if route.candidate is not None:
        wished[route.candidate.student_id] = "challenger"
    if route.live is not None:
        wished[route.live.student_id] = "champion"
    changed = []
    for path in (home / "jobs").glob("*/job.json") if wished else ():
        alias = wished.get((read_json(path) or {}).get("student_id", ""))
        if alias is not None:
            write_json(path.parent / ALIAS_FILE, {"alias": alias})
            changed.append(path.parent)
    return [folder for folder in changed if not _is_logged(folder)]


def _is_logged(folder: Path) -> bool:
    logged = read_json(folder / LOGGED_FILE)
    return logged is not None and logged.get("alias") == _alias(folder)


def _alias(folder: Path) -> str | None:
    return (read_json(folder / ALIAS_FILE) or {}).get("alias")


def _trained(folder: Path) -> dict[str, Any] | None:
    outcome = read_json(folder / OUTCOME_FILE) or {}
    return outcome.get("event") if outcome.get("type") == StudentTrained.TYPE else None


def main(folder: Path) -> int:
    """Log the job in `folder`, and give its student the alias it should have; does nothing where all that is so."""
    os.nice(10)  # serving comes first
    event, job = _trained(folder), read_json(folder / "job.json")
    if event is None or job is None or _is_logged(folder):
        return 0
    from stillhouse.registry import log_training_run, mark_erased, register_student, set_alias

    student, task = StudentTrained.model_validate(event), Task.model_validate(job["task"])
    run_id = log_training_run(
        Path(job["home"]),
        student=student,
        parameters=candidate_with(task.students[student.rung], student.changes).model_dump(mode="json"),
        curves=read_json(folder / "curves.json") or [],
        job=job,
        environment=(read_json(folder / RESULT_FILE) or {}).get("environment"),
    )
    register_student(Path(job["home"]), student=student, run_id=run_id)
    erased = erased_datasets(Path(job["home"]) / "datasets").get(student.dataset.version)
    if erased is not None:
        mark_erased(Path(job["home"]), student.student_id, erased)
    alias = _alias(folder)
    if alias is not None:
        set_alias(Path(job["home"]), student.student_id, "champion" if alias == "champion" else "challenger")
    write_json(folder / LOGGED_FILE, {"run_id": run_id, "alias": alias})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
