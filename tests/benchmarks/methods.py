"""`methods`: does each distillation objective beat hard labels?

The teacher is the sentence encoder with a fitted head; the student keeps 2 of its 6 layers, of which one learns, and a
head. Each run learns from 1,000 texts that its seed draws of 3,000 which the teacher answered, for 4 epochs at the same
rate; methods differ in the loss alone. Weights are the papers' for DKD, DIST, standardised logits and RKD, 10 for
attention transfer, 1 for other features; relations and features keep hard labels beside them. Two papers' weights did
harm here, of CRD (0.8) and of similarity-preserving (3,000), which are for networks that see images: theirs alone were
chosen, as those that agree most on the pool's texts that a run has not learnt, with seeds that do not judge (below the
table). The difference is the mean of paired differences to hard labels over the same seeds, with its 95 % interval by
Student's t: with so many methods about one in twenty leaves 0 out by chance. "better" and "worse" are intervals
without 0.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stillhouse.distill.training import predict
from stillhouse.tasks.distillation import (
    AnyTerm,
    AttentionTransfer,
    Contrastive,
    Correlation,
    Decoupled,
    HardLabels,
    HiddenStates,
    Relational,
    SelfAttention,
    SimilarityPreserving,
    SoftTargets,
    StandardisedLogits,
)
from tests.benchmarks import meta
from tests.benchmarks.classroom import Classroom, Lesson, judged_logits, learn, lesson, open_room
from tests.benchmarks.data import Data, load, shared
from tests.benchmarks.peers import HOME
from tests.benchmarks.report import percent, table, whole_seeds

# Methods for which both of the student's layers learn, beside hard labels for which they do.
BOTH = "hard_labels_both_layers"
BASELINES = dict.fromkeys(("hidden_mse_last", "hidden_mse_uniform", "hidden_mse_searched"), BOTH)
# Part of a kept run's name: raise it when a method gives other figures.
VERSION = 1
SEEDS, QUICK_SEEDS = 5, 2
BASELINE = "hard_labels"
HEADINGS = ("method", "agreement", "± s.d.", "difference to hard labels", "accuracy", "CPU-s a run", "")

Method = Callable[[Lesson], NDArray[np.float32]]

# Best of `TRIED`, of which the largest are the papers' and 0 is hard labels alone.
SIMILARITY, CONTRAST = 30.0, 0.002
TRIED = {"similarity_preserving": (0.0, 3.0, 30.0, 300.0, 3000.0), "crd": (0.0, 0.002, 0.01, 0.05, 0.2, 0.8)}
CHOOSING_SEEDS = (100, 101)  # none of those that judge

HARD, BLEND = HardLabels(), (HardLabels(weight=0.2), SoftTargets(weight=0.8))


def recipe(*terms: AnyTerm, layers: int = 1) -> Method:
    """The method that minimises these terms; the student's highest `layers` learn."""
    return lambda of: judged_logits(of, learn(of, terms, layers))


# A method trains on a lesson and gives logits float32 [test texts, labels]; one line adds one.
METHODS: dict[str, Method] = {
    BASELINE: recipe(HARD),
    "label_smoothing": recipe(HardLabels(smoothing=0.1)),
    "soft_targets": recipe(*BLEND),
    "standardised_logits": recipe(HardLabels(weight=0.1), StandardisedLogits(weight=9.0)),
    "dkd": recipe(HARD, Decoupled()),
    "dist": recipe(HARD, Correlation(inter=2.0, intra=2.0)),
    "rkd": recipe(HARD, Relational()),
    "rkd_distance": recipe(HARD, Relational(angle=0.0)),
    "rkd_angle": recipe(HARD, Relational(distance=0.0)),
    "similarity_preserving": recipe(HARD, SimilarityPreserving(weight=SIMILARITY)),
    "crd": recipe(HARD, Contrastive(weight=CONTRAST)),
    "hidden_mse": recipe(HARD, HiddenStates(kind="hidden_mse")),
    "hidden_cosine": recipe(HARD, HiddenStates(kind="hidden_cosine")),
    "attention_transfer": recipe(HARD, AttentionTransfer(weight=10.0)),
    "minilm": recipe(HARD, SelfAttention()),
    "minilm_v2": recipe(HARD, SelfAttention(parts=("queries", "keys", "values"))),
    "soft_targets_and_hidden_cosine": recipe(*BLEND, HiddenStates(kind="hidden_cosine")),
    BOTH: recipe(HARD, layers=2),
    "hidden_mse_last": recipe(HARD, HiddenStates(kind="hidden_mse", layers="last"), layers=2),
    "hidden_mse_uniform": recipe(HARD, HiddenStates(kind="hidden_mse", layers="uniform"), layers=2),
    "hidden_mse_searched": recipe(HARD, HiddenStates(kind="hidden_mse", layers="searched"), layers=2),
}


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; runs that were kept are not done again.

    Interrupted, it gives the figures of the seeds that every method has; there must be two.
    """
    begun = meta.start()
    rows = load(data if data is not None else shared("clinc150"))
    if quick:
        few = set(rows.labels[:30])
        rows = Data(rows.name, *([row for row in part if row.label in few] for part in (rows.train, rows.test)))
    room = open_room(rows, HOME / "methods", **({"learnt": 600, "test": 500} if quick else {}))
    seeds = QUICK_SEEDS if quick else SEEDS
    kept: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    # Seeds outside, so that an interrupted benchmark has figures of every method.
    try:
        for seed in range(seeds):
            for name, method in METHODS.items():
                kept[name].append(_once(room, name, method, seed))
    except KeyboardInterrupt:
        seeds = whole_seeds(kept)
        kept = {name: runs[:seeds] for name, runs in kept.items()}
    result: dict[str, Any] = {name: summary(runs, kept[BASELINES.get(name, BASELINE)]) for name, runs in kept.items()}
    for name, baseline in BASELINES.items():
        result[name]["baseline"] = baseline
    packages = ("torch", "transformers", "numpy", "scipy")
    result["meta"] = meta.finish(begun, repeats=seeds, quick=quick, data=room.name, packages=packages)
    result["meta"]["texts"] = {"pool": len(room.pool), "learnt": room.learnt, "asked": len(room.test)}
    result["meta"]["tried_weights"] = {name: _chosen(room, name) for name in TRIED}
    result["meta"]["teacher_accuracy"] = float((room.said == room.truth).mean())
    return result


def summary(runs: Sequence[Mapping[str, float]], baseline: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """A method's figures beside the baseline's of the same seeds."""
    agreement = np.array([one["agreement"] for one in runs])
    of_baseline = np.array([one["agreement"] for one in baseline])
    differences = agreement - of_baseline
    low, high = paired_interval(differences)
    accuracy = np.array([one["accuracy"] for one in runs])
    return {
        "metric": "agreement",
        "mean": float(agreement.mean()),
        "std": float(agreement.std(ddof=1)),
        "seeds": len(runs),
        "hard_label_baseline_mean": float(of_baseline.mean()),
        "difference": float(differences.mean()),
        "difference_ci": [low, high],
        "accuracy": float(accuracy.mean()),
        "accuracy_difference_ci": list(paired_interval(accuracy - np.array([one["accuracy"] for one in baseline]))),
        "training_cpu_s": float(np.mean([one["cpu_s"] for one in runs])),
    }


def paired_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by Student's t."""
    mean, error = float(differences.mean()), float(stats.sem(differences))
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean - reach, mean + reach


def _once(room: Classroom, name: str, method: Method, seed: int) -> dict[str, float]:
    """One run's figures, of a run that was kept or of one that is kept now."""
    path = HOME / "methods" / room.digest / f"v{VERSION}-{room.learnt}" / name / f"{seed}.json"
    if path.exists():
        return _read(path)
    _ = room.lower, room.embedded, room.encoder  # what all methods share is read before the clock starts
    before = time.process_time()
    answers = method(lesson(room, seed)).argmax(axis=1)
    found = {
        "agreement": float((answers == room.said).mean()),
        "accuracy": float((answers == room.truth).mean()),
        "cpu_s": time.process_time() - before,
    }
    _keep(path, found)
    print(f"{name}, seed {seed}: agreement {found['agreement']:.3f}, {found['cpu_s']:.0f} CPU-s", file=sys.stderr)
    return found


def _chosen(room: Classroom, name: str) -> dict[str, float]:
    """Agreement with each weight that was tried, on the pool's texts that a run has not learnt; means over seeds."""
    found: dict[str, float] = {}
    for weight in TRIED[name]:
        term = Contrastive if name == "crd" else SimilarityPreserving
        terms = (HARD, term(weight=weight)) if weight else (HARD,)
        folder = HOME / "methods" / room.digest / f"v{VERSION}-{room.learnt}" / (name if weight else BASELINE)
        runs = []
        for seed in CHOOSING_SEEDS:
            path = folder / f"tried-{weight:g}-{seed}.json"
            if not path.exists():
                of = lesson(room, seed)
                unseen = sorted(set(range(len(room.pool))) - set(of.places.tolist()))
                said = predict(learn(of, terms), [room.lower[0][i] for i in unseen], tokens=True).argmax(axis=1)
                _keep(path, {"agreement": float((said == room.logits.numpy()[unseen].argmax(axis=1)).mean())})
            runs.append(_read(path)["agreement"])
            print(f"{name} with weight {weight:g}, seed {seed}: {runs[-1]:.3f} of texts not learnt", file=sys.stderr)
        found[f"{weight:g}"] = float(np.mean(runs))
    return found


def _read(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _keep(path: Path, found: Mapping[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(found), encoding="utf-8")
    os.replace(draft, path)


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name, of in result.items():
        if name == "meta":
            continue
        low, high = of["difference_ci"]
        verdict = "" if name == BASELINE else "better" if low > 0 else "worse" if high < 0 else "not shown to help"
        if "baseline" in of:
            verdict += f" (difference to {of['baseline']})"
        rows.append(
            [
                name,
                percent(of["mean"]),
                f"{100 * of['std']:.1f}",
                None if name == BASELINE else f"{100 * of['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                percent(of["accuracy"]),
                of["training_cpu_s"],
                verdict,
            ]
        )
    of, texts = result["meta"], result["meta"]["texts"]
    facts = (
        f"Percentage points; {of['repeats']} seeds, {texts['learnt']:,} texts of {texts['pool']:,} learnt, "
        f"{texts['asked']:,} asked. The teacher is right on {percent(of['teacher_accuracy'])} of them."
    )
    for name, tried in of.get("tried_weights", {}).items():
        agreed = ", ".join(f"{percent(agreement)} with {float(weight):,g}" for weight, agreement in tried.items())
        facts += f"\n\nWeights tried for {name}, on texts not learnt, of {len(CHOOSING_SEEDS)} other seeds: {agreed}."
    return f"{table(HEADINGS, rows)}\n\n{facts}"
