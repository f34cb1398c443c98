"""`python -m services.validator.lineage <gate folder>`: what a gate found into MLflow, in a process of its own.

Nobody waits for MLflow (3 s and 200 MB to import): the verdict is published first. What could not be logged is logged
when the validator starts again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stillhouse.bus.jobs import read_json, write_json
from stillhouse.events import StudentEvaluated
from stillhouse.registry import afterwards

EVALUATED_FILE: Final = "evaluated.json"  # the event, in the gate's folder
MODULE: Final = "services.validator.lineage"
LOGGED_FILE: Final = "mlflow.json"
SETTLE_S: Final = 15.0  # serving comes first, and the trainer logs the student itself before


async def log_regularly(ended: asyncio.Queue[Path], home: Path) -> None:
    """Log every evaluation of `home` that is not in MLflow yet, then those that come in `ended`, until cancelled."""
    await afterwards.log_regularly(MODULE, ended, partial(unlogged, home), _is_logged, SETTLE_S)


def unlogged(home: Path) -> list[Path]:
    """Folders of decided gates that are not in MLflow. Blocking."""
    folders = sorted(path.parent for path in (home / "jobs").glob(f"*/{EVALUATED_FILE}"))
    return [folder for folder in folders if not _is_logged(folder)]


def _is_logged(folder: Path) -> bool:
    return (folder / LOGGED_FILE).exists()


def main(folder: Path) -> int:
    """Log the evaluation in `folder`; does nothing where that is done or there is none."""
    os.nice(10)  # serving comes first
    told, job = read_json(folder / EVALUATED_FILE), read_json(folder / "job.json")
    if told is None or job is None or _is_logged(folder):
        return 0
    from stillhouse.registry import log_evaluation

    evaluated = StudentEvaluated.model_validate(told)
    report = Path(url2pathname(urlsplit(evaluated.report_uri).path)) if evaluated.report_uri else None
    run_id = log_evaluation(Path(job["home"]), evaluated=evaluated, report=report)
    write_json(folder / LOGGED_FILE, {"run_id": run_id})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
