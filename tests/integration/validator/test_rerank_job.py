"""The offline gate of a task that reranks: agreement is by the comparator of rankings."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import numpy as np

from services.trainer.dataset import choose, freeze
from stillhouse.bus.jobs import write_json
from stillhouse.events import StudentTrained
from stillhouse.models.artefact import folder_of
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.models.rerank_student import OnnxReranker
from stillhouse.store import Store
from stillhouse.tasks import Task
from tests.integration.rerankers import WEIGHTS, WORDS, write_reranker
from tests.integration.validator.gated import COMMAND, CUTOFF, example


def lists(n: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [
        RerankRequest(
            query=f"apple {number}",
            documents=tuple(" ".join(random.choice(WORDS, size=random.integers(2, 8))) for _ in range(6)),
        ).as_input()
        for number in range(n)
    ]


def test_a_student_that_swaps_neighbours_agrees_and_one_that_turns_the_order_round_does_not(tmp_path) -> None:
    (tmp_path / "teacher").mkdir()
    task = Task.model_validate(
        {
            "name": "intents",
            "kind": "rerank",
            "teacher": {"kind": "cross_encoder", "folder": tmp_path / "teacher", "usd_per_call": 0.002},
            "students": ({"architecture": "cross_encoder"},),
            "gate": {
                "comparator": {"kind": "ranking", "metric": "ndcg", "k": 3, "at_least": 0.8},
                "condition": ({"kind": "memory", "ceiling": 1000}, {"kind": "ranking", "k": 3, "floor": 0.9}),
            },
        }
    )
    teacher = OnnxReranker(folder_of(write_reranker(tmp_path / "t", "teacher")))
    near = judged(tmp_path / "near", task, teacher, WEIGHTS | {"fine": 0.9, "poor": -1.1})
    assert near["judgement"]["verdict"] == "passed", near["judgement"]
    assert near["metrics"]["raw_agreement"] > 0.97
    names = {one["name"] for one in near["judgement"]["conditions"]}
    assert {"agreement", "coverage", "pays", "memory", "ndcg@3"} <= names
    far = judged(tmp_path / "far", task, teacher, {word: -weight for word, weight in WEIGHTS.items()})
    assert far["judgement"]["verdict"] == "failed"
    assert far["metrics"]["raw_agreement"] < 0.5


def judged(home: Path, task: Task, teacher: OnnxReranker, weights: dict[str, float]) -> dict:
    store = Store(home / "store")
    artefact = write_reranker(home / "artefacts", "s1", weights)

    def row(number: int, text: str, seconds: int):
        output, _, distribution = teacher.predict_text(text)
        more = {"distribution": json.dumps(distribution), "input_type": "rerank"}
        return example(number, text, output, CUTOFF + timedelta(seconds=seconds), **more)

    store.append_examples([row(100_000 + n, text, n - 101_000) for n, text in enumerate(lists(200, 1))])
    dataset = freeze(choose(store.examples(task.key).to_pylist(), largest=1000, since=None), home / "datasets", CUTOFF)
    store.append_examples([row(n, text, n) for n, text in enumerate(lists(500, 2))])
    student = StudentTrained(
        task="intents",
        student_id="s1",
        job_id="job",
        architecture="cross_encoder",
        rung=0,
        artefact=artefact,
        dataset=dataset,
        teacher_version="t1",
    )
    folder = home / "jobs" / "gate-1" / "rounds" / "0"
    folder.mkdir(parents=True)
    job = {"kind": "offline", "task": task.model_dump(mode="json"), "student": student.model_dump(mode="json")}
    write_json(home / "jobs" / "gate-1" / "job.json", job | {"home": str(home)})
    done = subprocess.run([*COMMAND, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())
