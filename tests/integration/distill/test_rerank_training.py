"""Rerankers from lists to the files that serve: real encoder, real ONNX, and the job that the trainer starts."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from safetensors.torch import load_file

from stillhouse.bus.jobs import write_json
from stillhouse.distill.rerankers.export import export_reranker, in_order
from stillhouse.distill.rerankers.lists import RankedList
from stillhouse.distill.rerankers.training import TrainedReranker, scores_of_list, train_reranker
from stillhouse.models.artefact import verify
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_request import RerankRequest, answer_of
from stillhouse.models.rerank_student import OnnxReranker
from stillhouse.store import Store
from stillhouse.store.redaction import input_hash
from stillhouse.store.rows import ExampleRow
from stillhouse.tasks import RerankerStudent, Task
from tests.integration.rerankers import write_reranker

pytestmark = pytest.mark.slow

ANIMALS = {"a dog": "puppy", "a cat": "kitten", "a horse": "foal", "a cow": "calf", "a sheep": "lamb"}
PLACES = ("in the garden", "on the road", "near the river", "behind the house")
PAIR = RerankerStudent(architecture="cross_encoder", layers=1, learn_layers=1, max_tokens=32, epochs=3, batch_size=4)
TWIN = PAIR.model_copy(update={"architecture": "bi_encoder", "reads": "beginning"})


class Killed(Exception):
    """Stands for the process being killed."""


def lists(n: int, seed: int) -> list[RankedList]:
    """Which sentence is about the young of an animal: the teacher likes it best, and those at the same place next."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        animal, place = str(random.choice(list(ANIMALS))), str(random.choice(PLACES))
        others = random.permutation([young for name, young in ANIMALS.items() if name != animal])[:3]
        wheres = [str(random.choice(PLACES)) for _ in range(4)]
        documents = [
            f"We saw a {young} {where}." for young, where in zip([ANIMALS[animal], *others], wheres, strict=True)
        ]
        scores = [4.0 * (k == 0) + 1.0 * (where == place) - 2.0 for k, where in enumerate(wheres)]
        order = random.permutation(4)
        made.append(
            RankedList(f"{animal} {place}", tuple(documents[i] for i in order), tuple(scores[i] for i in order))
        )
    return made


def learn(candidate, folder, kill_after=None) -> TrainedReranker:
    def on_progress(progress) -> None:
        if progress.epoch == kill_after:
            raise Killed

    folder.mkdir(exist_ok=True)
    return train_reranker(candidate, lists(48, 0), lists(8, 1), on_progress=on_progress, checkpoint_dir=folder, seed=0)


def agreement(score, of) -> float:
    return float(np.mean([in_order(np.asarray(score(one)), np.asarray(one.teacher)) for one in of]))


@pytest.mark.parametrize("candidate", [PAIR, TWIN], ids=lambda candidate: candidate.architecture)
def test_a_student_learns_the_teachers_order_and_its_files_say_the_same(tmp_path, candidate) -> None:
    unseen = lists(30, 2)
    untaught = learn(candidate.model_copy(update={"epochs": 1, "learning_rate": 1e-9}), tmp_path / "untaught")
    before = agreement(lambda one: scores_of_list(untaught, one.query, one.documents), unseen)
    trained = learn(candidate, tmp_path / "checkpoints")
    after = agreement(lambda one: scores_of_list(trained, one.query, one.documents), unseen)
    assert after > max(0.75, before + 0.1), (before, after)

    folder = tmp_path / "artefact"
    folder.mkdir()
    report = export_reranker(trained, folder, "s1", unseen)
    student = OnnxReranker(folder)
    served = agreement(lambda one: student.scores(one.query, one.documents), unseen)
    assert report.in_order >= 0.95
    assert abs(served - after) < 0.05
    assert report.bytes < 20_000_000
    first = student.scores(unseen[0].query, unseen[0].documents)
    assert (student.scores(unseen[0].query, unseen[0].documents) == first).all(), "kept vectors are the same vectors"
    assert (OnnxReranker(folder, keep=0).scores(unseen[0].query, unseen[0].documents) == first).all()


def test_a_run_that_was_killed_goes_on_and_gives_the_same_weights(tmp_path) -> None:
    whole = learn(PAIR.model_copy(update={"epochs": 2}), tmp_path / "whole")
    with pytest.raises(Killed):
        learn(PAIR.model_copy(update={"epochs": 2}), tmp_path / "cut", kill_after=1)
    again = learn(PAIR.model_copy(update={"epochs": 2}), tmp_path / "cut")
    for (name, one), (_, other) in zip(whole.module.named_parameters(), again.module.named_parameters(), strict=True):
        assert (one == other).all(), name
    assert load_file(str(next((tmp_path / "cut").glob("epoch-*"))))


def test_there_must_be_lists_to_learn_from(tmp_path) -> None:
    alone = [RankedList("q", ("one",), (1.0,))]
    with pytest.raises(ModelError, match="there are none"):
        train_reranker(PAIR, alone, alone, on_progress=lambda _: None, checkpoint_dir=tmp_path, seed=0)


def test_the_trainers_job_makes_a_student_of_recorded_rankings(tmp_path) -> None:
    home, now = tmp_path / "home", datetime(2026, 3, 1, tzinfo=UTC)
    (tmp_path / "teacher").mkdir()
    write_reranker(tmp_path / "teacher", "t")
    task = Task.model_validate(
        {
            "name": "ranks",
            "kind": "rerank",
            "teacher": {"kind": "cross_encoder", "folder": tmp_path / "teacher" / "t", "usd_per_call": 0.002},
            "students": [PAIR.model_copy(update={"epochs": 1}).model_dump()],
            "gate": {"comparator": {"kind": "ranking", "at_least": 0.9}},
        }
    )
    rows = []
    for number, one in enumerate(lists(60, 3)):
        text = RerankRequest(query=f"{one.query} {number}", documents=one.documents).as_input()
        output, distribution = answer_of(one.teacher or ())
        kept = json.dumps(distribution) if number % 2 else "{}"  # an order alone teaches, too
        rows.append(
            ExampleRow(
                f"e{number}", now + timedelta(minutes=number), "default", "ranks", f"r{number}", text,
                input_hash(text), output, kept, 1.0, "full", "teacher", "t", input_type="rerank",
            )
        )  # fmt: skip
    Store(home / "store").append_examples(rows)
    folder = home / "jobs" / "j"
    folder.mkdir(parents=True)
    told = {"task": task.model_dump(mode="json"), "rung": 0, "home": str(home), "student_id": "s1", "since": None}
    write_json(folder / "job.json", told | {"cutoff": (now + timedelta(days=1)).isoformat(), "job_id": "j"})
    command = [sys.executable, "-m", "services.trainer.job", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((folder / "result.json").read_text())
    student = OnnxReranker(verify(home / "artefacts" / "s1"))
    assert student.student_id == "s1"
    assert len(json.loads(student.predict_text(rows[0].input)[0])) == 4
    assert result["metrics"]["in_order"] >= 0.95
    assert result["dataset"]["n_train"] == 51
