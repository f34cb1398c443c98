"""Logging into MLflow after the fact: one folder at a time, each in a process of its own that nobody waits for.

MLflow costs 3 s and 200 MB to import, so it is in no service.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

ATTEMPTS: Final = 3

log = structlog.get_logger()


async def log_regularly(
    module: str,
    ended: asyncio.Queue[Path],
    unlogged: Callable[[], Sequence[Path]],
    is_logged: Callable[[Path], bool],
    settle_s: float,
) -> None:
    """Run `python -m <module> <folder>` for what `unlogged` gives, then for what comes in `ended`, until cancelled.

    What came waits for `settle_s` first. Both functions may block.
    """
    for folder in await asyncio.to_thread(unlogged):
        await _log_one(module, folder, is_logged)
    while True:
        folder = await ended.get()
        await asyncio.sleep(settle_s)
        await _log_one(module, folder, is_logged)


async def _log_one(module: str, folder: Path, is_logged: Callable[[Path], bool]) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        if await asyncio.to_thread(is_logged, folder):
            return
        with (folder / "lineage.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(folder), stdout=output, stderr=output
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
