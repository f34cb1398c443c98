"""A real student, a store with its teacher's answers, and the folder of its offline gate."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from services.trainer.dataset import choose, freeze
from stillhouse.bus.jobs import write_json
from stillhouse.events import StudentTrained
from stillhouse.models.artefact import verify
from stillhouse.models.student import OnnxStudent
from stillhouse.store import Store
from stillhouse.store.redaction import input_hash
from stillhouse.store.rows import ExampleRow
from stillhouse.tasks import Task
from tests.integration.students import LABELS, write_student

CUTOFF = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORDS = (
    "where",
    "when",
    "my",
    "order",
    "parcel",
    "refund",
    "money",
    "back",
    "please",
    "never",
    "book",
    "volume",
    "late",
)


def texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 12))) + f" {number}" for number in range(n)]


def example(number: int, text: str, output: str, time: datetime, **changes: Any) -> ExampleRow:
    fields: dict[str, Any] = {
        "example_id": f"e{number}",
        "time": time,
        "tenant": "default",
        "task": "intents",
        "request_id": f"r{number}",
        "input": text,
        "input_sha256": input_hash(text),
        "output": output,
        "distribution": "{}",
        "confidence": 1.0,
        "sample": "full",
        "provenance": "teacher",
        "teacher_version": "t1",
    }
    return ExampleRow(**(fields | changes))


@dataclass
class Gated:
    """`gate` is the gate's folder; `model` answers as the student does."""

    home: Path
    gate: Path
    task: Task
    student: StudentTrained
    model: OnnxStudent
    store: Store

    def add(self, first: int, n: int, *, wrong: float = 0.0, seed: int = 5, **changes: Any) -> None:
        """`n` gate cases after the cutoff, of which the share `wrong` is answered differently by the teacher."""
        rng = np.random.default_rng(seed)
        rows = []
        for number, text in enumerate(texts(n, seed), start=first):
            label = self.model.predict_text(text)[0]
            if rng.random() < wrong:
                label = LABELS[(LABELS.index(label) + 1) % len(LABELS)]
            rows.append(example(number, text, label, CUTOFF + timedelta(seconds=number), **changes))
        self.store.append_examples(rows)

    def look(self, number: int = 0) -> dict[str, Any]:
        """One look of the gate, in a process of its own; its result."""
        folder = self.round(number)
        done = subprocess.run([*COMMAND, str(folder)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "result.json").read_text())

    def round(self, number: int) -> Path:
        folder = self.gate / "rounds" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


COMMAND = (sys.executable, "-m", "services.validator.job")


def make(tmp_path: Path, seed: int = 1, **task_changes: Any) -> Gated:
    home, store = tmp_path / "home", Store(tmp_path / "home" / "store")
    (home / "artefacts").mkdir(parents=True)
    artefact = write_student(home / "artefacts", "s1", temperature=0.02, seed=seed)
    model = OnnxStudent(verify(artefact))
    fields: dict[str, Any] = {
        "name": "intents",
        "labels": LABELS,
        "teacher": {"seed": Path("seed.jsonl"), "usd_per_call": 0.002},
        "students": ({"architecture": "hashed_ngrams"},),
    }
    task = Task.model_validate(fields | task_changes)
    old = [
        example(number, text, model.predict_text(text)[0], CUTOFF - timedelta(seconds=101_000 - number))
        for number, text in enumerate(texts(400, seed=99), start=100_000)
    ]
    store.append_examples(old)
    rows = store.examples(task.key, until=CUTOFF).to_pylist()
    dataset = freeze(choose(rows, largest=1000, since=None), home / "datasets", CUTOFF)
    student = StudentTrained(
        task="intents",
        student_id="s1",
        job_id="job",
        architecture="hashed_ngrams",
        rung=0,
        artefact=artefact,
        dataset=dataset,
        teacher_version="t1",
    )
    gate = home / "jobs" / "gate-1"
    gate.mkdir(parents=True)
    job = {"kind": "offline", "task": task.model_dump(mode="json"), "student": student.model_dump(mode="json")}
    write_json(gate / "job.json", job | {"home": str(home)})
    return Gated(home, gate, task, student, model, store)
