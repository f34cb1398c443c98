"""`schemes`: does it help who teaches, and in which order? Every scheme beside direct distillation, paired by seed.

Each seed draws the texts that teach and choose, and the students' start; all rows of one seed share them. A row's
difference from its baseline is taken seed by seed, with a t interval over the seeds: it says whether the scheme helps a
student of this kind on this data, not by how much it would on yours. Nothing was tuned but the temperature of `tags`
(1, with a seed that does not judge), and of many rows about one in twenty leaves 0 out by chance.

Rows `asked_...` begin with 500 texts and ask about 500 of 2,500 others. Rows `..._bits` round the linear layers of deep
n-grams; `longer` learns as many steps more as QAT does. Rows `second_half...` have learnt every second label before the
others; a second table says what is left of the first. Rows `yes_or_no`, `tags` and `score` learn other targets, which
follow from the teacher's probabilities: whether a text is about money, the words of its label's name that other labels
share (whole sets agree), and how probable it is that it is about money. A score's agreement is the correlation with the
teacher's, its accuracy the area under the ROC curve.

Not measured here: paraphrases (`distill.augmentation.paraphrase`), which need a teacher that writes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.distill.schemes.ensembles import averaged
from tests.benchmarks import (
    meta,
    schemes_asking,
    schemes_encoder,
    schemes_forgetting,
    schemes_ngrams,
    schemes_rounding,
    schemes_targets,
    schemes_teachers,
)
from tests.benchmarks.data import load, shared
from tests.benchmarks.peers import HOME
from tests.benchmarks.population import prepare
from tests.benchmarks.report import percent, table
from tests.benchmarks.schemes_encoder import ENCODER_LEARNS
from tests.benchmarks.schemes_pool import LEARN, SELECT, Pool, Row
from tests.benchmarks.schemes_students import ENCODER, Draw

# Part of the name of kept runs: raise it when a row gives other figures.
VERSION = 2
SEEDS = 5
# Baselines that learn from labels (of scores: from the truth) alone.
HARD = ("hard", "deep3_hard", "cut3_hard", "five_teachers_labels", "yes_or_no_hard", "tags_hard", "score_of_truth")
ROWS: dict[str, Row] = (
    schemes_ngrams.ROWS
    | schemes_rounding.ROWS
    | schemes_asking.ROWS
    | schemes_teachers.ROWS
    | schemes_encoder.ROWS
    | schemes_forgetting.ROWS
    | schemes_targets.ROWS
)


def run(quick: bool, data: Path | None, rows: Sequence[str] = tuple(ROWS)) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    setting = prepare(quick, data)
    read = load(data if data is not None else shared("clinc150"))
    domains = {row.label: row.domain for row in read.train if row.domain}
    pool = Pool(setting, {row.text: row.label for row in read.train}, domains)
    said: dict[str, list[dict[str, float]]] = {}
    seeds = 3 if quick else SEEDS
    draws: dict[int, Draw] = {}
    learnt = f"v{VERSION}-{setting.digest}-{LEARN}-{ENCODER_LEARNS}-{ENCODER['epochs']}-{ENCODER['rate']}"
    home = HOME / "schemes" / learnt
    for name in rows:  # row by row: what a stopped run leaves can be compared
        for seed in range(seeds):
            kept = home / f"{name}-{seed}.json"
            if not kept.exists():
                if seed not in draws:
                    draws[seed] = pool.draw(seed)
                kept.parent.mkdir(parents=True, exist_ok=True)
                draft = kept.with_suffix(".tmp")
                draft.write_text(json.dumps(ROWS[name].run(draws[seed], pool)), encoding="utf-8")
                os.replace(draft, kept)
            said.setdefault(name, []).append(json.loads(kept.read_text(encoding="utf-8")))
            print(f"seed {seed}: {name} {said[name][-1]}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {name: _figures(name, found, said) for name, found in said.items()}
    result["teachers"] = _of_the_teachers(pool)
    packages = ("torch", "numpy")
    result["meta"] = meta.finish(begun, repeats=seeds, quick=quick, data=setting.data, packages=packages)
    result["meta"]["texts"] = {
        "learnt": LEARN,
        "learnt_by_encoder": ENCODER_LEARNS,
        "choosing": SELECT,
        "asked": len(pool.test),
    }
    return result


def _of_the_teachers(pool: Pool) -> dict[str, Any]:
    said = pool.teachers([row.text for row in pool.test])
    labels = np.array(pool.labels)
    singles = [float((labels[one.argmax(axis=1)] == pool.truth).mean()) for one in said]
    whole = float((labels[averaged(said).argmax(axis=1)] == pool.truth).mean())
    main = float((np.array([row.label for row in pool.test]) == pool.truth).mean())
    return {"accuracy": main, "accuracy_of_each_of_five": singles, "accuracy_of_their_mean": whole}


def _figures(name: str, found: list[dict[str, float]], said: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """One row in the fields that `methods` has too, its differences from each baseline, and what else it measured."""
    row = ROWS[name]
    against = {base: _difference(found, said[base], row.metric) for base in row.against if base in said}
    hard = next((base for base in against if base in HARD), None)
    judged = _mean(found, row.metric)
    apart = against[hard]["agreement"] if hard else None
    more = [key for key in found[0] if key not in (row.metric, "accuracy", "cpu_s")]
    return {
        "metric": row.metric,
        "student": row.student,
        "mean": judged["mean"],
        "std": judged["sd"],
        "seeds": len(found),
        "hard_label_baseline_mean": _mean(said[hard], row.metric)["mean"] if hard else None,
        "difference_ci": [apart["low"], apart["high"]] if apart else None,
        "accuracy": _mean(found, "accuracy"),
        "cpu_s": _mean(found, "cpu_s"),
        "against": against,
    } | ({"more": {key: _mean(found, key) for key in more}} if more else {})


def _mean(found: list[dict[str, float]], key: str) -> dict[str, float]:
    values = [one[key] for one in found]
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _difference(found: list[dict[str, float]], base: list[dict[str, float]], metric: str) -> dict[str, Any]:
    """Means of the differences seed by seed, with 95 % t intervals; over the seeds that both have."""
    from scipy.stats import t

    both = min(len(found), len(base))
    result: dict[str, Any] = {"seeds": both}
    for name, key in (("agreement", metric), ("accuracy", "accuracy")):
        apart = np.array([found[i][key] - base[i][key] for i in range(both)])
        half = float(t.ppf(0.975, both - 1) * apart.std(ddof=1) / np.sqrt(both)) if both > 1 else float("inf")
        mean = float(apart.mean())
        result[name] = {"mean": mean, "low": mean - half, "high": mean + half, "helps": bool(mean - half > 0)}
    return result


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown: all rows, and what is left of what was learnt before."""
    rows, left = [], []
    for name, of in result.items():
        if name in ("meta", "teachers"):
            continue
        bases = of["against"] or {None: None}
        for base, apart in bases.items():
            rows.append(
                [
                    name,
                    of["student"],
                    percent(of["mean"]),
                    percent(of["accuracy"]["mean"]),
                    base or "–",
                    _shown(apart, "agreement"),
                    _shown(apart, "accuracy"),
                    apart["seeds"] if apart else of["seeds"],
                    of["cpu_s"]["mean"],
                ]
            )
        if "old" in (more := of.get("more", {})):
            asked = [percent(more[key]["mean"]) for key in ("old_before", "old", "new")]
            left.append([name, *asked, *(more[key]["mean"] for key in ("lost", "gained"))])
    head = ("scheme", "student", "agreement", "accuracy", "against", "agreement by", "accuracy by", "seeds", "CPU-s")
    found = table(head, rows)
    if left:
        kept = ("scheme", "old labels before", "old labels after", "new labels", "old texts lost", "gained")
        found += f"\n\nWhat the second half of the labels left of the first, agreement:\n\n{table(kept, left)}"
    return found


def _shown(apart: dict[str, Any] | None, key: str) -> str:
    if apart is None:
        return "–"
    of = apart[key]
    return f"{100 * of['mean']:+.1f} ({100 * of['low']:+.1f} to {100 * of['high']:+.1f})"
