"""`design`: what `stillhouse design` predicts of students, beside the same students trained and exported.

Latency, size and memory of encoders are predicted from the shape alone (a cost for each kind of operation, fitted to
graphs of other shapes timed on this machine just before). Each of five seeds draws 1,000 of 5,500 texts that the
teacher answered; students of 2 and 3 layers, and those without attention, learn from 200 and from 400 of them, and say
what all will be worth after 1,000. Then they learn from those: encoders for 4 epochs by the objective that `design`
recommends, the others as `[[student]]` has it by default. Quality is agreement with the teacher, as trained, on 500
other texts of the same kind: no sample foretells texts of another kind, such as the fifth of clinc150's test texts that
has no label, and these are left out. "Off by" is what was reached less what was predicted, its mean over the seeds and
its 95 % interval by Student's t. The first seed's students are exported, timed five times at 16 tokens, and loaded in a
process of their own; of students without attention, what the sample's came to stands for a prediction.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.distill.architecture.cost_model import CostModel, calibrated
from stillhouse.distill.architecture.counting import EncoderShape, activation_bytes, weight_bytes
from stillhouse.distill.architecture.design import expected_agreement, grid
from stillhouse.distill.architecture.encoder_graph import latency_ms
from stillhouse.distill.architecture.footprint import expected_memory, memory_of
from stillhouse.distill.architecture.loading import shape_of
from stillhouse.distill.architecture.objectives import objectives
from stillhouse.distill.architecture.quality import Sample, learnt, train_on_sample
from stillhouse.distill.architecture.small_students import PER_TOKEN, SmallStudent, train_small
from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.distill.data import LabelledText
from stillhouse.distill.export import export
from stillhouse.distill.training import TrainedStudent
from stillhouse.models.features import MODEL_FILE
from stillhouse.tasks import StudentCandidate
from tests.benchmarks import meta
from tests.benchmarks.methods import paired_interval
from tests.benchmarks.population import prepare
from tests.benchmarks.report import percent, table, whole_seeds

CUTS = ((2, 1.0), (3, 1.0), (3, 0.5), (4, 1.0), (6, 1.0))  # layers, share of heads and neurons
SMALL = {
    "stillhouse_hashed_ngrams": "hashed_ngrams",
    "stillhouse_static": "static_embeddings",
    "stillhouse_text_cnn": "text_cnn",
}
LENGTH, LEARNT, SAMPLE, JUDGED = 16, 1000, 500, 500
SEEDS, QUICK_SEEDS, TIMES = 5, 2, 5
HEADINGS = (
    "student",
    "ms predicted",
    "ms (range)",
    "MB predicted",
    "MB",
    "memory MB predicted",
    "memory MB",
    "agreement predicted",
    "agreement",
    "± s.d.",
    "off by, points",
)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark. Interrupted, it gives the figures of whole seeds; there must be two."""
    begun = meta.start()
    setting = prepare(quick, data)
    count, sample, seeds = (400, 200, QUICK_SEEDS) if quick else (LEARNT, SAMPLE, SEEDS)
    pool, judged = setting.train[:-JUDGED], setting.train[-JUDGED:]
    labels = setting.task.labels
    whole = replace(shape_of(encoder_source()), labels=len(labels))
    model = calibrated()
    cuts = CUTS[:2] if quick else CUTS
    shapes = {_name(layers, width): _shape(whole, layers, width) for layers, width in cuts}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*shapes, *SMALL)}
    result: dict[str, Any] = {}
    try:
        for seed in range(seeds):
            rows = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:count]]
            select = [
                setting.select[i] for i in np.random.default_rng(seed).permutation(len(setting.select))[: count // 4]
            ]
            curves = train_on_sample(rows, (2, 3), sample=sample, seed=seed)
            small = {one.architecture: one for one in train_small(rows, sample=sample, length=LENGTH, seed=seed)}
            texts = Sample(rows, select, judged, labels, soft=True)
            for name in runs:
                candidate = _candidate(name, rows)
                student, reached = learnt(candidate, texts, len(rows), seed)
                if name in shapes:
                    predicted = expected_agreement(shapes[name], whole, LENGTH, curves, len(rows))
                else:
                    predicted = small[candidate.architecture].agreement(len(rows))
                runs[name].append((predicted, reached.agreement))
                if seed == 0:
                    costs = (
                        _predicted(model, shapes[name]) if name in shapes else _of_sample(small[candidate.architecture])
                    )
                    result[name] = costs | _measured(student, name)
                print(f"{name}, seed {seed}: {predicted:.3f} predicted, {reached.agreement:.3f}", file=sys.stderr)
    except KeyboardInterrupt:
        seeds = whole_seeds(runs)
        runs = {name: found[:seeds] for name, found in runs.items()}
    for name, found in runs.items():
        result[name] |= _quality(found) | {"n_test": len(judged)}
    result["cost_model"] = {"error_left_out": model.error}
    result["meta"] = meta.finish(
        begun, repeats=seeds, quick=quick, data=setting.data, packages=("onnxruntime", "torch", "numpy", "scipy")
    )
    return result


def _name(layers: int, width: float) -> str:
    return f"stillhouse_cut{layers}" + ("_half_width" if width < 1 else "")


def _shape(whole: EncoderShape, layers: int, width: float) -> EncoderShape:
    wanted = layers, round(whole.heads * width)
    return next(shape for _, shape, _ in grid(whole, whole.labels) if (shape.layers, shape.heads) == wanted)


def _candidate(name: str, rows: Sequence[LabelledText]) -> StudentCandidate:
    """The student of that name, taught as `design` has it."""
    if name in SMALL:
        return StudentCandidate(architecture=SMALL[name])
    layers, width = next(one for one in CUTS if _name(*one) == name)
    terms = objectives(any(row.distribution for row in rows))[0].terms
    return StudentCandidate(architecture="cut_encoder", layers=layers, width=width, epochs=4, distill=terms)


def _predicted(model: CostModel, shape: EncoderShape) -> dict[str, float]:
    size = weight_bytes(shape)
    return {
        "ms_predicted": model.predict(shape, LENGTH),
        "bytes_predicted": size,
        "memory_predicted": expected_memory(size, activation_bytes(shape, LENGTH) // shape.layers),
    }


def _of_sample(one: SmallStudent) -> dict[str, float | None]:
    return {"ms_predicted": one.ms, "bytes_predicted": one.bytes, "memory_predicted": one.memory_bytes}


def _measured(student: TrainedStudent, name: str) -> dict[str, Any]:
    """What the exported student takes: milliseconds, the median of some timings and their range; bytes; memory."""
    tokens = LENGTH * PER_TOKEN.get(student.candidate.architecture, 1)
    with tempfile.TemporaryDirectory() as scratch:
        export(student, Path(scratch), name)
        graph = Path(scratch) / MODEL_FILE
        times = [latency_ms(graph, tokens) for _ in range(TIMES)]
        return {
            "ms": float(np.median(times)),
            "ms_range": [min(times), max(times)],
            "bytes": graph.stat().st_size,
            "memory": memory_of(graph, tokens),
        }


def _quality(found: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of (predicted, reached) of each seed."""
    predicted, reached = np.array(found).T
    return {
        "agreement_predicted": float(predicted.mean()),
        "agreement": float(reached.mean()),
        "agreement_std": float(reached.std(ddof=1)),
        "off_by": float((reached - predicted).mean()),
        "off_by_ci": list(paired_interval(reached - predicted)),
        "seeds": len(found),
    }


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name, of in result.items():
        if not name.startswith("stillhouse"):
            continue
        (fast, slow), (low, high) = of["ms_range"], of["off_by_ci"]
        rows.append(
            [
                name,
                of["ms_predicted"],
                f"{of['ms']:.3g} ({fast:.3g}–{slow:.3g})",
                of["bytes_predicted"] / 1e6,
                of["bytes"] / 1e6,
                None if of["memory_predicted"] is None else of["memory_predicted"] / 1e6,
                None if of["memory"] is None else of["memory"] / 1e6,
                percent(of["agreement_predicted"]),
                percent(of["agreement"]),
                f"{100 * of['agreement_std']:.1f}",
                f"{100 * of['off_by']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
            ]
        )
    error = percent(result["cost_model"]["error_left_out"])
    facts = (
        f"{result['meta']['repeats']} seeds. Of shapes left out of the fit in turn, latency is predicted {error} wrong."
    )
    return f"{table(HEADINGS, rows)}\n\n{facts}"
