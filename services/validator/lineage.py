"""`python -m services.validator.lineage <gate folder>`: what a gate found into MLflow, in a process of its own.

Nobody waits for MLflow (3 s and 200 MB to import): the verdict is published first. What could not be logged is logged
when the validator starts again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import structlog

from stillhouse.bus.jobs import read_json, write_json
from stillhouse.events import StudentEvaluated

EVALUATED_FILE: Final = "evaluated.json"  # the event, in the gate's folder
LOGGED_FILE: Final = "mlflow.json"
ATTEMPTS: Final = 3
SETTLE_S: Final = 15.0  # serving comes first, and the trainer logs the student itself before

log = structlog.get_logger()


async def log_regularly(ended: asyncio.Queue[Path], home: Path) -> None:
    """Log every evaluation of `home` that is not in MLflow yet, then those that come in `ended`, until cancelled."""
    for folder in await asyncio.to_thread(unlogged, home):
        await _log_one(folder)
    while True:
        folder = await ended.get()
        await asyncio.sleep(SETTLE_S)
        await _log_one(folder)


def unlogged(home: Path) -> list[Path]:
    """Folders of decided gates that are not in MLflow. Blocking."""
    folders = sorted(path.parent for path in (home / "jobs").glob(f"*/{EVALUATED_FILE}"))
    return [folder for folder in folders if not (folder / LOGGED_FILE).exists()]


async def _log_one(folder: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        if (folder / LOGGED_FILE).exists():
            return
        with (folder / "lineage.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.validator.lineage", str(folder), stdout=output, stderr=output
            )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            raise
        if code == 0:
            return
        log.warning("evaluation_not_logged", gate=folder.name, attempt=attempt, log=str(folder / "lineage.log"))
        await asyncio.sleep(2.0 * attempt)


def main(folder: Path) -> int:
    """Log the evaluation in `folder`; does nothing where that is done or there is none."""
    os.nice(10)  # serving comes first
    told, job = read_json(folder / EVALUATED_FILE), read_json(folder / "job.json")
    if told is None or job is None or (folder / LOGGED_FILE).exists():
        return 0
    from stillhouse.registry import log_evaluation

    evaluated = StudentEvaluated.model_validate(told)
    report = Path(url2pathname(urlsplit(evaluated.report_uri).path)) if evaluated.report_uri else None
    run_id = log_evaluation(Path(job["home"]), evaluated=evaluated, report=report)
    write_json(folder / LOGGED_FILE, {"run_id": run_id})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
