"""A real teacher and a real student on labelled texts: the cases that `gate` draws from and `student` measures.

The teacher is the product's ensemble (encoder and fitted head). It is fitted on one part of the training texts and
answers the rest; students learn from those answers. Everything is kept under `.stillhouse/bench/home/` and made once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.data import LabelledText
from stillhouse.models.student import OnnxStudent
from stillhouse.models.teacher import EnsembleTeacher, fit_teacher
from stillhouse.tasks import StudentCandidate, Task, Teacher
from stillhouse.tasks.students import STATIC
from tests.benchmarks.data import Data, load, shared
from tests.benchmarks.peers import HOME

SEED_PER_LABEL = 20
TRAIN, SELECT = 6000, 1000
CHOICES = {
    "stillhouse_hashed_ngrams": StudentCandidate(architecture="hashed_ngrams", epochs=30),
    "stillhouse_static": StudentCandidate(architecture="static_embeddings"),
    "stillhouse_text_cnn": StudentCandidate(architecture="text_cnn"),
    "stillhouse_static_assisted": StudentCandidate(architecture="static_embeddings", synthetic=1),
    # Of ten recipes this is the one that kept most of the teacher's accuracy on clinc150's dev part (one seed): two
    # layers learn rather than one.
    "stillhouse_cut3": StudentCandidate(architecture="cut_encoder", layers=3, learn_layers=2, epochs=6, batch_size=32),
    "stillhouse_cut3_half_width": StudentCandidate(
        architecture="cut_encoder", layers=3, width=0.5, epochs=6, batch_size=32
    ),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A fitted teacher's folder and task, the texts that students learn from (as it answers), and texts to judge on."""

    task: Task
    teacher_folder: Path | None
    train: list[LabelledText]
    select: list[LabelledText]
    test: list[LabelledText]
    truth: list[str]
    digest: str
    data: str


@dataclass(frozen=True, slots=True)
class Population:
    """Answers of a teacher and a student to the same texts, each array [n]."""

    confidence: NDArray[np.float64]
    agrees_not: NDArray[np.bool_]
    facts: dict[str, Any]

    def threshold_for(self, agreement: float, *, above: bool = True) -> float:
        """The confidence threshold whose share of cases without a loss is nearest to `agreement`, at least or below."""
        candidates = np.unique(self.confidence)
        wrong = np.sort(self.confidence[self.agrees_not])
        shares = 1 - (wrong.size - np.searchsorted(wrong, candidates, side="left")) / self.confidence.size
        fitting = shares >= agreement if above else shares < agreement
        if not fitting.any():  # the student never loses as often; serve everything
            return 0.0
        best = np.abs(np.where(fitting, shares, np.inf if above else -np.inf) - agreement).argmin()
        return float(candidates[best])


def population(quick: bool, data: Path | None) -> Population:
    """The cheapest student's answers and the teacher's, on texts that neither learned from."""
    setting = prepare(quick, data)
    student = OnnxStudent(trained("stillhouse_hashed_ngrams", setting))
    answers = [student.predict_text(row.text) for row in setting.test]
    agrees_not = np.array([said[0] != row.label for said, row in zip(answers, setting.test, strict=True)])
    facts = {
        "data": setting.data,
        "student": "hashed_ngrams",
        "texts": len(answers),
        "agreement_without_threshold": float(1 - agrees_not.mean()),
    }
    return Population(np.array([said[1] for said in answers]), agrees_not, facts)


def prepare(quick: bool, data: Path | None, most_judged: int | None = None, most_learnt: int = TRAIN) -> Setting:
    """Fit the teacher and let it answer, or read what an earlier run kept. `quick`: fewer labels and texts.

    `most_judged`: of the test texts at most so many, drawn at random. `most_learnt`: of those that teach students.
    """
    rows = load(data if data is not None else shared("clinc150"))
    if quick:
        rows = _fewer_labels(rows, 30)
    if most_judged is not None and len(rows.test) > most_judged:
        kept = np.sort(np.random.default_rng(0).permutation(len(rows.test))[:most_judged])
        rows = Data(rows.name, rows.train, [rows.test[i] for i in kept])
    facts = [rows.name, SEED_PER_LABEL, most_learnt, SELECT, [(row.text, row.label, row.teacher) for row in rows.train]]
    facts.append([(row.text, row.label, row.teacher) for row in rows.test])
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    folder = HOME / "population" / digest
    folder.mkdir(parents=True, exist_ok=True)

    order = np.random.default_rng(0).permutation(len(rows.train))
    train = [rows.train[i] for i in order]
    recorded = all(row.teacher for row in rows.train + rows.test)
    seed = [] if recorded else _seed(train, folder / "seed.jsonl")
    rest = [row for i, row in enumerate(train) if i not in set(seed)][: most_learnt + SELECT]
    task = Task(
        name="bench",
        labels=rows.labels,
        teacher=Teacher(seed=folder / "seed.jsonl", usd_per_call=0.002),
        students=tuple(CHOICES.values()),
    )
    fitted = None if recorded else fit_teacher(task, HOME / "home")
    texts = [row.text for row in rest] + [row.text for row in rows.test]
    if fitted is None:
        answered = [LabelledText(row.text, str(row.teacher)) for row in rest + rows.test]
    else:
        answered = _answers(EnsembleTeacher(task, fitted), texts, folder / "answers.jsonl")
    cut = len(rest) - min(SELECT, len(rest) // 5)
    return Setting(
        task,
        fitted,
        answered[:cut],
        answered[cut : len(rest)],
        answered[len(rest) :],
        [row.label for row in rows.test],
        digest,
        rows.name + (" (30 labels)" if quick else ""),
    )


def trained(name: str, setting: Setting, candidate: StudentCandidate | None = None, seed: int = 0) -> Path:
    """The folder of a trained and exported student, made first where it is not there; `trained.json` says its cost.

    `candidate` is by default the choice of that name; where it is another than the folder's, the student learns anew.
    """
    candidate = candidate or CHOICES[name]
    folder = HOME / "population" / setting.digest / (f"{name}_seed{seed}" if seed else name)
    recipe = candidate.model_dump(mode="json")
    if (kept := folder / "trained.json").exists():
        if json.loads(kept.read_text(encoding="utf-8")).get("recipe") == recipe:
            return folder
        shutil.rmtree(folder)
    from stillhouse.distill.export import export
    from stillhouse.distill.joint import train_joint
    from stillhouse.distill.training import train

    learn = train_joint if candidate.architecture == "joint" else train
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    cpu, before = time.process_time(), 0.0
    shared_texts: dict[str, Any] = {}
    if candidate.synthetic and candidate.architecture in STATIC:
        texts, before = _made(setting, candidate.synthetic)
        shared_texts["made"] = texts
        cpu = time.process_time()
    student = learn(
        candidate,
        setting.task.labels,
        setting.train,
        setting.select,
        on_progress=lambda at: print(
            f"{name}: epoch {at.epoch} of {at.epochs}, agreement {at.select_agreement:.3f}", file=sys.stderr
        ),
        checkpoint_dir=checkpoints,
        seed=seed,
        **shared_texts,
    )
    for checkpoint in sorted(checkpoints.rglob("*"), reverse=True):
        checkpoint.rmdir() if checkpoint.is_dir() else checkpoint.unlink()
    checkpoints.rmdir()
    report = export(student, folder, name)
    facts = {
        "training_cpu_s": before + time.process_time() - cpu,
        "bytes": report.bytes,
        "table_bits": report.table_bits,
        "matrix_bits": report.matrix_bits,
        "recipe": recipe,
    }
    (folder / "trained.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _made(setting: Setting, per_text: int) -> tuple[list[LabelledText], float]:
    """Made texts with the assistant's answers, once for all students that learn from them, and the CPU time it took."""
    from stillhouse.distill.assistant import more_texts
    from stillhouse.distill.fitting import torch_set_up
    from stillhouse.distill.training import hold_back

    choosing, _ = hold_back(setting.select)
    folder = HOME / "population" / setting.digest / f"made{per_text}"
    folder.mkdir(exist_ok=True)
    cost = folder / "cost.json"
    cpu = time.process_time()
    with torch_set_up(1):
        made = more_texts(
            setting.train, choosing, setting.task.labels, per_text, seed=0, folder=folder, run=setting.digest
        )
    if not cost.exists():
        cost.write_text(json.dumps(time.process_time() - cpu), encoding="utf-8")
    return made, float(json.loads(cost.read_text(encoding="utf-8")))


def _seed(train: Sequence[Any], path: Path) -> list[int]:
    """The first texts of each label, written as the teacher's seed; gives their places."""
    counts: dict[str, int] = {}
    places = []
    for i, row in enumerate(train):
        if counts.get(row.label, 0) < SEED_PER_LABEL:
            counts[row.label] = counts.get(row.label, 0) + 1
            places.append(i)
    lines = [json.dumps({"text": train[i].text, "label": train[i].label}) for i in places]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return places


def _answers(teacher: EnsembleTeacher, texts: list[str], path: Path) -> list[LabelledText]:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) == len(texts):
            return [LabelledText(**json.loads(line)) for line in lines]
    answered = []
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        for text, said in zip(part, teacher.predict(part), strict=True):
            answered.append(LabelledText(text, said.output, dict(said.distribution)))
        print(f"teacher: {min(start + 256, len(texts))} of {len(texts)} texts", end="\r", file=sys.stderr)
    print(file=sys.stderr)
    lines = [json.dumps({"text": a.text, "label": a.label, "distribution": a.distribution}) for a in answered]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return answered


def _fewer_labels(rows: Data, count: int) -> Data:
    kept = set(rows.labels[:count])
    return Data(
        rows.name, [row for row in rows.train if row.label in kept], [row for row in rows.test if row.label in kept]
    )
