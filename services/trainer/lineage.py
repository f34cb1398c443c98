"""`python -m services.trainer.lineage <job folder>`: one ended training job into MLflow, in a process of its own.

MLflow costs seconds to import and 200 MB, so it is neither in the service nor in the way of a new student: the student
is published first, its run is logged after. A run that could not be logged is logged when the trainer starts again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

import structlog

from services.trainer.states import OUTCOME_FILE
from stillhouse.bus.jobs import read_json, write_json
from stillhouse.events import StudentTrained
from stillhouse.tasks import Task

LOGGED_FILE: Final = "mlflow.json"
ATTEMPTS: Final = 3

log = structlog.get_logger()


async def log_regularly(ended: asyncio.Queue[Path], home: Path) -> None:
    """Log every trained student of `home` that has no run yet, then those that come in `ended`, until cancelled."""
    for folder in await asyncio.to_thread(unlogged, home):
        await _log_one(folder)
    while True:
        await _log_one(await ended.get())


def unlogged(home: Path) -> list[Path]:
    """Folders of jobs that ended with a student and have no MLflow run. Blocking."""
    folders = sorted(path.parent for path in (home / "jobs").glob(f"*/{OUTCOME_FILE}"))
    return [folder for folder in folders if not (folder / LOGGED_FILE).exists() and _trained(folder)]


async def _log_one(folder: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        if (folder / LOGGED_FILE).exists():
            return
        with (folder / "lineage.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.trainer.lineage", str(folder), stdout=output, stderr=output
            )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            raise
        if code == 0:
            return
        log.warning("lineage_not_logged", job_id=folder.name, attempt=attempt, log=str(folder / "lineage.log"))
        await asyncio.sleep(2.0 * attempt)


def _trained(folder: Path) -> dict[str, Any] | None:
    outcome = read_json(folder / OUTCOME_FILE) or {}
    return outcome.get("event") if outcome.get("type") == StudentTrained.TYPE else None


def main(folder: Path) -> int:
    """Log the job in `folder`; does nothing where its run is known already."""
    os.nice(10)  # serving comes first
    event, job = _trained(folder), read_json(folder / "job.json")
    if event is None or job is None or (folder / LOGGED_FILE).exists():
        return 0
    from stillhouse.registry import log_training_run, register_student

    student, task = StudentTrained.model_validate(event), Task.model_validate(job["task"])
    run_id = log_training_run(
        Path(job["home"]),
        student=student,
        parameters=task.students[student.rung].model_dump(mode="json"),
        curves=read_json(folder / "curves.json") or [],
    )
    register_student(Path(job["home"]), student=student, run_id=run_id)
    write_json(folder / LOGGED_FILE, {"run_id": run_id})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
