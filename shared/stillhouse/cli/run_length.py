"""How rarely the drift monitor raises a false alarm: in audits, as the task file has it, and in days, as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillhouse.cli.lives import Life
    from stillhouse.settings import Settings


@dataclass(frozen=True, slots=True)
class RunLength:
    """Of one live student: audits so far, how many a day, and the mean number of them between false alarms."""

    audits: int
    audits_a_day: float | None
    average_run_length: int

    @property
    def days(self) -> float | None:
        """The mean number of days between false alarms, at the rate so far; None: too early to tell."""
        return self.average_run_length / self.audits_a_day if self.audits_a_day else None

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "audits": self.audits,
            "audits_a_day": self.audits_a_day,
            "average_run_length_audits": self.average_run_length,
            "average_run_length_days": self.days,
        }

    def sentence(self) -> str:
        """For people."""
        rate = "how many a day is not known yet" if self.audits_a_day is None else f"{self.audits_a_day:,.0f} a day"
        every = f"one false drift alarm in {self.average_run_length:,} audits on average"
        if self.days is not None:
            every += (
                f", that is in {self.days:,.0f} days"
                if self.days < 3650
                else f", that is in {self.days / 365:,.0f} years"
            )
        return f"{self.audits:,} audits, {rate}; {every}"


def run_length(times: Sequence[datetime], average_run_length: int) -> RunLength:
    """From the times of a student's live audits; under an hour, and with fewer than ten, their rate says nothing."""
    seconds = (max(times) - min(times)).total_seconds() if times else 0.0
    known = seconds >= 3600 and len(times) >= 10
    return RunLength(len(times), (len(times) - 1) / seconds * 86_400 if known else None, average_run_length)


def run_lengths(settings: Settings, lives: Sequence[Life]) -> dict[str, RunLength]:
    """Of the live students of declared tasks, by student id. Blocking."""
    from stillhouse.store import Store
    from stillhouse.tasks import TaskFileError, load_tasks

    try:
        tasks = load_tasks(settings.tasks)
    except TaskFileError:  # `stillhouse doctor` says what is wrong with it
        return {}
    store, found = Store(settings.home / "store"), dict[str, RunLength]()
    for life in lives:
        if life.state == "live" and life.task_key in tasks:
            rows = store.audits(life.task_key, life.student_id).select(["time", "stage"]).to_pylist()
            times = [row["time"] for row in rows if row["stage"] == "live"]
            found[life.student_id] = run_length(times, tasks[life.task_key].drift.average_run_length)
    return found
