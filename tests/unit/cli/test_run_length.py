"""The ARL in days follows from the audits' own times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stillhouse.cli.lives import Life
from stillhouse.cli.run_length import run_length, run_lengths
from stillhouse.settings import Settings
from stillhouse.store import Store
from stillhouse.store.rows import AuditRow

T0 = datetime(2026, 1, 1, tzinfo=UTC)
TASK = """
[task]
name = "t"
labels = ["a", "b"]
[teacher]
seed = "seed.jsonl"
usd_per_call = 0.1
[[student]]
architecture = "hashed_ngrams"
[drift]
average_run_length = 50_000
"""


def row(number: int, stage: str) -> AuditRow:
    return AuditRow(
        f"{stage}{number}", T0 + timedelta(hours=number), "default", "t", f"r{number}", "x", "s1", "0", stage, 0.1, 0.5,
        True, True, "student", False, "a", "v", 1.0,
    )  # fmt: skip


def test_days_are_audits_by_the_measured_rate() -> None:
    length = run_length([T0 + timedelta(minutes=30 * n) for n in range(97)], 9600)
    assert (length.audits, length.audits_a_day, length.days) == (97, 48.0, 200.0)
    assert length.sentence() == (
        "97 audits, 48 a day; one false drift alarm in 9,600 audits on average, that is in 200 days"
    )
    assert (
        "that is in 57 years" in run_length([T0 + timedelta(minutes=30 * n) for n in range(97)], 1_000_000).sentence()
    )


@pytest.mark.parametrize("times", [[], [T0], [T0 + timedelta(minutes=n) for n in range(50)]])
def test_too_few_or_too_early_say_audits_only(times) -> None:
    length = run_length(times, 1000)
    assert length.days is None
    assert "not known yet" in length.sentence()
    assert length.as_json()["average_run_length_days"] is None


def test_only_live_audits_of_live_students_count(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.toml").write_text(TASK)
    (tmp_path / "tasks" / "seed.jsonl").write_text('{"text": "x", "label": "a"}\n')
    settings = Settings(home=tmp_path, tasks=tmp_path / "tasks")
    Store(tmp_path / "store").append_audits(
        [*(row(n, "live") for n in range(49)), *(row(n, "canary") for n in range(9))]
    )
    lives = [Life("s1", "default/t", "hashed_ngrams", "live"), Life("s0", "default/t", "hashed_ngrams", "retired")]
    found = run_lengths(settings, lives)
    assert list(found) == ["s1"]
    assert found["s1"].as_json() == {
        "audits": 49,
        "audits_a_day": 24.0,
        "average_run_length_audits": 50_000,
        "average_run_length_days": pytest.approx(2083.3, abs=0.1),
    }
    assert run_lengths(Settings(home=tmp_path, tasks=tmp_path / "nowhere"), lives) == {}
