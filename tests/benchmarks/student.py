"""`student`: what each student architecture costs beside its teacher, and how often it agrees.

The teacher is fitted on 20 labelled texts a label and answers the rest; every student and every peer learns from the
same answers (SetFit from 8 a label, as its guide has it, and 150 steps) and is asked about the same test texts. One
thread each, CPU time of the own process. Students run as they serve: one text at a time, redaction and featurising
included; peers in batches of 32. A fast student's agreement with other seeds stands after the semicolons.

This teacher reads vectors of the very encoder that static students, the assistant behind their made texts, and
Model2Vec start from, which suits them; students of another teacher may gain less. A fifth of clinc150's test texts
belong to no label: there students differ most from any teacher.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.models.student import OnnxStudent
from stillhouse.models.teacher import EnsembleTeacher
from tests.benchmarks import meta, peers
from tests.benchmarks.data import shared
from tests.benchmarks.peers.timing import measure
from tests.benchmarks.population import CHOICES, Setting, prepare, trained
from tests.benchmarks.report import percent, rate, table

# Packages of each peer's environment; torch for the CPU, where the index has it.
PEERS: dict[str, tuple[str, ...]] = {
    "model2vec": ("model2vec[distill]", "scikit-learn", "torch==2.13.0"),
    "embedding_lr": ("sentence-transformers", "scikit-learn", "torch==2.13.0"),
    "setfit": ("setfit", "transformers<5", "torch==2.13.0"),
}
BATCH = 32
HEADINGS = ("system", "texts / CPU-s", "× teacher", "p50 ms, 1 text", "MB", "agreement", "accuracy", "training CPU-s")
STREAM = "commit_type_stream"
JUDGED = 2000
SEEDS = (1, 2)  # beside 0: how far a fast student's agreement depends on the seed
OF_SEEDS = ("stillhouse_static",)
ON_STREAM = ("stillhouse_hashed_ngrams", "stillhouse_static", "stillhouse_text_cnn", "stillhouse_cut3")
SETFIT_STEPS = 150  # of 16 pairs; its guide has all pairs, which takes hours on one core


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    repeats = 1 if quick else 3
    setting = prepare(quick, data)
    result, versions, failed = _measured(setting, repeats, quick, peers_too=True)
    if data is None and not quick:
        # The past teaches, and what came years later judges: without the slow peers, which say nothing new there.
        stream = prepare(quick, shared(STREAM), most_judged=JUDGED)
        result[STREAM], _, _ = _measured(stream, repeats, quick, peers_too=False, names=ON_STREAM)
    if failed:
        result["not_run"] = failed
    packages = ("onnxruntime", "torch", "scikit-learn", "numpy")
    named = f"{setting.data}, {STREAM}" if STREAM in result else setting.data
    result["meta"] = meta.finish(begun, repeats=repeats, quick=quick, data=named, packages=packages)
    result["meta"]["versions"] |= versions
    learnt = len(setting.train) + len(setting.select)
    result["meta"]["texts"] = {"learnt": learnt, "asked": min(len(setting.test), _most(quick))}
    return result


def _measured(
    setting: Setting, repeats: int, quick: bool, *, peers_too: bool, names: Sequence[str] = tuple(CHOICES)
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Every system on one data set: figures by name, versions of peers, and why those that did not run did not."""
    count = min(len(setting.test), _most(quick))
    places = np.random.default_rng(0).permutation(len(setting.test))[:count]
    test = [setting.test[i].text for i in places]
    said = [setting.test[i].label for i in places]
    truth = [setting.truth[i] for i in places]
    result: dict[str, Any] = {}
    versions: dict[str, str] = {}
    failed: dict[str, str] = {}

    def keep(name: str, measured: dict[str, Any], **more: Any) -> None:
        answers = measured.pop("answers")
        versions.update(measured.pop("version", {}))
        agrees = rate(sum(a == b for a, b in zip(answers, said, strict=True)), count)
        result[name] = {
            **measured,
            **more,
            "agreement": agrees["value"],
            "agreement_interval": [agrees["low"], agrees["high"]],
            "accuracy": sum(a == b for a, b in zip(answers, truth, strict=True)) / count,
        }

    if setting.teacher_folder is not None:
        teacher = EnsembleTeacher(setting.task, setting.teacher_folder)
        folders = (setting.teacher_folder, setting.teacher_folder.parents[3] / "encoders")
        size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
        measured = measure(partial(_ask, teacher), test, BATCH, repeats)
        keep("teacher", measured, bytes=size, how="encoder fp32, ONNX Runtime; head fitted on the seed")
    for name in names:
        folder = trained(name, setting)
        more = _facts(folder)
        if name in OF_SEEDS and not quick:
            others = [_one_by_one(trained(name, setting, seed=seed))(test) for seed in SEEDS]
            more["agreement_of_other_seeds"] = [
                round(sum(a == b for a, b in zip(answers, said, strict=True)) / count, 4) for answers in others
            ]
        keep(name, measure(_one_by_one(folder), test, 1, repeats), **more)
    keep("tfidf_lr", _tfidf_lr(setting, test, repeats))
    for name, requirements in PEERS.items():
        if not peers_too and name != "model2vec":
            continue
        job = {
            "kind": name,
            "encoder": str(encoder_source()),
            "train": [(row.text, row.label) for row in setting.train + setting.select],
            "test": test,
            "batch": BATCH,
            "repeats": 1 if name == "setfit" else repeats,
            "steps": 50 if quick else SETFIT_STEPS,
        }
        try:
            keep(name, _peer(setting, name, requirements, job))
        except peers.PeerFailed as error:
            failed[name] = str(error)
    if "teacher" in result:
        for figures in result.values():
            figures["times_cheaper_than_teacher"] = figures["texts_per_cpu_s"] / result["teacher"]["texts_per_cpu_s"]
    return result, versions, failed


def _most(quick: bool) -> int:
    return 500 if quick else JUDGED


def _peer(setting: Setting, name: str, requirements: tuple[str, ...], job: dict[str, Any]) -> dict[str, Any]:
    """A peer's result, kept beside the students, so that a run that was stopped goes on where it was."""
    facts = json.dumps([name, requirements, job["repeats"], job["steps"], job["batch"], job["train"], job["test"]])
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    path = peers.HOME / "population" / setting.digest / f"{name}-{digest}.json"
    if not path.exists():
        found = peers.run(name, requirements, "classifiers.py", job, timeout_s=3600)
        path.write_text(json.dumps(found), encoding="utf-8")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _ask(teacher: EnsembleTeacher, texts: Sequence[str]) -> Sequence[str]:
    return [said.output for said in teacher.predict(texts)]


def _one_by_one(folder: Path) -> Callable[[Sequence[str]], Sequence[str]]:
    student = OnnxStudent(folder)
    return lambda texts: [student.predict_text(text)[0] for text in texts]


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    bits = f"int{facts.pop('table_bits')} tables, int{facts.pop('matrix_bits')} matrices".replace("int32", "fp32")
    return {**facts, "how": f"{bits}, ONNX Runtime"}


def _tfidf_lr(setting: Setting, test: list[str], repeats: int) -> dict[str, Any]:
    """scikit-learn's TF-IDF of words and pairs with logistic regression, on the same answers."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = setting.train + setting.select
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000, C=10)
    )
    cpu = time.process_time()
    model.fit([row.text for row in rows], [row.label for row in rows])
    spent = time.process_time() - cpu
    measured = measure(lambda texts: [str(label) for label in model.predict(list(texts))], test, BATCH, repeats)
    how = f"words and pairs, C = 10, on {len(rows)} answers"
    return measured | {"bytes": len(pickle.dumps(model)), "training_cpu_s": spent, "how": how}


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    lines = _table(result)
    if STREAM in result:
        lines += f"\n\n{STREAM}: learnt from 2016 and 2017, asked about 2019 to 2026\n\n{_table(result[STREAM])}"
    return lines + "".join(f"\n\nNot run: {why}." for why in result.get("not_run", {}).values())


def _table(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            figures["texts_per_cpu_s"],
            figures.get("times_cheaper_than_teacher"),
            figures["p50_ms_batch1"],
            figures["bytes"] / 1e6,
            f"{percent(figures['agreement'])} "
            f"({100 * figures['agreement_interval'][0]:.1f}–{100 * figures['agreement_interval'][1]:.1f})"
            + "".join(f"; {100 * other:.1f}" for other in figures.get("agreement_of_other_seeds", ())),
            percent(figures["accuracy"]),
            figures.get("training_cpu_s"),
        ]
        for name, figures in result.items()
        if name not in ("meta", "not_run", STREAM)
    ]
    return table(HEADINGS, rows)
