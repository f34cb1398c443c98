"""`stillhouse train --follow`: one training job from the order to the student, as its own files tell it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from stillhouse.bus.jobs import ERROR_FILE, RESULT_FILE, read_json

LOOK_S: Final = 0.5
OUTCOME_FILE: Final = "outcome.json"


def follow(home: Path, cause_id: str, console: Console) -> bool:
    """Show the job that follows from the order `cause_id` until it ends; whether it made a student."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("waiting for the trainer", total=1.0)
        told = ""
        while True:
            folder = _job_of(home, cause_id)
            progress: dict[str, Any] = (read_json(folder / "progress.json") if folder is not None else None) or {}
            if progress:
                line = describe(progress)
                bar.update(shown, description=line, completed=progress["fraction"])
                if line != told and not console.is_terminal:
                    console.print(f"{line}, {100 * progress['fraction']:.0f} %", markup=False, highlight=False)
                told = line
            if folder is not None and (outcome := read_json(folder / OUTCOME_FILE)) is not None:
                break
            time.sleep(LOOK_S)
    event = outcome["event"]
    if (folder / RESULT_FILE).exists():
        console.print(f"{event['student_id']} is trained; its gates come next: `stillhouse students`.", soft_wrap=True)
        return True
    error = event.get("error") or (read_json(folder / ERROR_FILE) or {}).get("message", "it says nothing")
    console.print(f"No student: {error}", soft_wrap=True, markup=False)
    return False


def describe(progress: dict[str, Any]) -> str:
    """A progress report in words: phase, loss, speed and what is left, as far as the phase has them."""
    words = [str(progress["phase"])]
    if "quantization" in progress:
        words.append(f"as {progress['quantization']}")
    if "select_loss" in progress:
        words.append(f"loss {progress['select_loss']:.3f}")
    if "tokens_per_s" in progress:
        words.append(f"{progress['tokens_per_s']:.0f} tokens/s")
    elif "texts_per_s" in progress:
        words.append(f"{progress['texts_per_s']:.0f} texts/s")
    if "eta_s" in progress:
        words.append(f"{progress['eta_s']:.0f} s left")
    return ", ".join(words)


def _job_of(home: Path, cause_id: str) -> Path | None:
    for path in (home / "jobs").glob("*/job.json"):
        job = read_json(path) or {}
        if job.get("kind") == "training" and job.get("cause_id") == cause_id:
            return path.parent
    return None
