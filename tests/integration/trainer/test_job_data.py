"""What a training job takes from the store after a drift, and that the trainer's changes reach the student."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from services.trainer.job import _data
from services.trainer.rubric import FAILED, RUBRIC_FILE, SILENT
from stillhouse.bus.jobs import write_json
from stillhouse.distill.targets.program import program_path
from stillhouse.events import follow_id
from stillhouse.store import Store
from stillhouse.store.redaction import input_hash
from stillhouse.store.rows import ExampleRow
from stillhouse.tasks import Task
from tests.integration.validator.judge_server import MODEL, stand_in_judge
from tests.unit.trainer.tasks import T0, at, make_task

TASK = make_task(
    students=({"architecture": "hashed_ngrams", "dim": 16, "epochs": 2, "buckets": 1 << 12},),
    drift={"replay_share": 0.2},
)


def example(number: int) -> ExampleRow:
    text, label = f"{'abc'[number % 3]} {number}", "abc"[number % 3]
    return ExampleRow(
        f"e{number:05}", T0 + timedelta(minutes=number), "default", "intents", f"r{number}", text, input_hash(text),
        label, json.dumps({label: 0.9}), 0.9, "full", "teacher", "t",
    )  # fmt: skip


@pytest.fixture
def home(tmp_path) -> Path:
    store = Store(tmp_path / "store")
    store.append_examples([example(number) for number in range(400)])
    return tmp_path


def job(home: Path, task: Task, **changes: Any) -> tuple[Path, dict[str, Any]]:
    told = {
        "kind": "training", "job_id": "j", "student_id": "s1", "task_key": task.key,
        "task": task.model_dump(mode="json"), "rung": 0, "home": str(home), "cutoff": at(400).isoformat(),
        "since": None,
    } | changes  # fmt: skip
    folder = home / "jobs" / follow_id("j", "folder", json.dumps(told))
    folder.mkdir(parents=True)
    write_json(folder / "job.json", told)
    return folder, told


def test_without_a_drift_every_text_counts_alike(home) -> None:
    folder, told = job(home, TASK)
    _, train, select, _, _ = _data(folder, TASK, home, told)
    assert (len(train), len(select)) == (340, 60)
    assert {text.weight for text in train} == {1.0}


def test_after_a_drift_what_came_before_makes_its_share(home) -> None:
    folder, told = job(home, TASK, since=at(199.5).isoformat())
    _, train, select, _, _ = _data(folder, TASK, home, told)
    assert (len(train), len(select)) == (340, 60)
    old = [text.weight for text in train if text.weight < 1.0]
    assert len(old) == 200
    assert sum(old) / sum(text.weight for text in train) == pytest.approx(0.2)
    # Frozen once: another attempt has the same.
    assert _data(folder, TASK, home, told)[1] == train


def test_a_share_of_nothing_leaves_the_old_out(home) -> None:
    task = TASK.model_copy(update={"drift": TASK.drift.model_copy(update={"replay_share": 0.0})})
    folder, told = job(home, task, since=at(199.5).isoformat())
    _, train, _, _, _ = _data(folder, task, home, told)
    assert len(train) == 140
    assert {text.weight for text in train} == {1.0}


def test_changes_reach_the_student(home) -> None:
    changes = {"dim": 24, "class_alpha": {"b": 0.9}}
    folder, _ = job(home, TASK, changes=changes, since=at(199.5).isoformat())
    done = subprocess.run([sys.executable, "-m", "services.trainer.job", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "result.json").exists()
    [newest, *_] = sorted((folder / "checkpoints").glob("epoch-*"), reverse=True)
    assert load_file(newest)["weights.table.weight"].shape[1] == 24
    # What can be exported to other targets is kept beside the artefact that serves.
    [artefact] = (home / "artefacts").iterdir()
    assert program_path(artefact).is_file()


def judged_by(url: str, rubric: str, most: int = 200) -> Task:
    judge = {"base_url": url, "model": MODEL, "rubric": rubric, "usd_per_call": 0.01, "max_concurrency": 16}
    return make_task(
        students=({"architecture": "hashed_ngrams"},), data={"judge": judge}, budget={"max_train_examples": most}
    )


def test_answers_that_a_rubric_turns_away_are_asked_about_once_and_teach_nobody(home) -> None:
    with stand_in_judge() as (url, asked):
        task = judged_by(url, "It is a or b .")
        folder, told = job(home, task)
        dataset, train, select, _, _ = _data(folder, task, home, told)
        calls = len(asked)
        assert {text.row["output"] for text in (*train, *select)} == {"a", "b"}
        assert len(train) + len(select) == 200, "others stand in for those that were turned away"
        assert calls < 400, "only what would teach is asked about"
        card = json.loads((home / "datasets" / f"{dataset.version}.card.json").read_text())
        assert card["removed_examples"][FAILED] == calls - 200
        assert card["removed_examples"][SILENT] == 0
        assert json.loads((folder / RUBRIC_FILE).read_text()) == {"calls": calls, "usd": pytest.approx(0.01 * calls)}
        assert json.loads((folder / "reviewed.json").read_text())["judge_usd"] == pytest.approx(0.01 * calls)
        # Another job finds the rulings and pays nothing; a job that was stopped while it asked knows what it took.
        again, told = job(home, task, job_id="k")
        assert _data(again, task, home, told)[0].version == dataset.version
        assert json.loads((again / RUBRIC_FILE).read_text())["calls"] == 0
        (folder / "dataset.json").unlink()
        _data(folder, task, home, json.loads((folder / "job.json").read_text()))
        assert json.loads((folder / RUBRIC_FILE).read_text())["calls"] == calls == len(asked)


def test_a_judge_that_says_nothing_usable_ends_the_attempt(home) -> None:
    with stand_in_judge(silent=True) as (url, asked):
        task = judged_by(url, "It is a or b .")
        folder, told = job(home, task)
        with pytest.raises(ValueError, match="gave no usable answer to any of 4 cases"):
            _data(folder, task, home, told)
        assert len(asked) == 4
        assert not (folder / "dataset.json").exists()
