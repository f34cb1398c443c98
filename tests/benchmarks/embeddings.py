"""`embeddings`: smaller sentence encoders beside the one whose vectors they learnt, on unlabelled texts.

The teacher is the product's sentence encoder; each of five seeds draws 2,000 of 4,000 texts, and its students learn the
teacher's vectors of them, without labels. Judged on texts that taught nobody: the nearest of 2,000 labelled texts
(cosine) has the right label; rank correlation (Spearman) of the similarities of 20,000 random pairs of 1,000 texts with
the teacher's. Figures are means over the seeds with their standard deviation; intervals are of the mean, 95 % by
Student's t, so they say how far seeds and texts learnt differ, not how far other texts asked would. The teacher's is
the exact interval of its 1,000 texts. Every seed's student is judged as trained; the first one's exported file says
speed (texts per CPU-second in batches of 8, one thread) and size.

Students learn `vector_loss` + `similarity_loss`; rows named after one loss learn that one alone, and the second table
has what it changes on the same seeds. `stillhouse_static_as_it_came` has learnt nothing but its linear map.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from stillhouse.models.encoder import SentenceEncoder, ensure_encoder
from tests.benchmarks import meta
from tests.benchmarks.data import load, shared
from tests.benchmarks.methods import paired_interval
from tests.benchmarks.peers import HOME
from tests.benchmarks.report import percent, rate, table, whole_seeds

POOL, LEARN, SELECT, KNOWN, ASKED, PAIRS = 4000, 2000, 500, 2000, 1000, 20_000
SEEDS, QUICK_SEEDS = 5, 2
HEADINGS = (
    "encoder",
    "texts / CPU-s",
    "× teacher",
    "MB",
    "nearest label right",
    "± s.d.",
    "rank correlation",
    "± s.d.",
    "training CPU-s",
)
OF_LOSSES = ("student", "nearest label right, points beside both losses", "rank correlation, beside both losses")
# A student's kind, its epochs (quick ones after them), and the weights of the losses of vectors and of similarities.
STUDENTS = {
    "stillhouse_static_as_it_came": ("static", 0, 0, 1.0, 1.0),
    "stillhouse_static": ("static", 10, 2, 1.0, 1.0),
    "stillhouse_static_vector_loss": ("static", 10, 2, 1.0, 0.0),
    "stillhouse_static_similarity_loss": ("static", 10, 2, 0.0, 1.0),
    "stillhouse_cut2": ("cut2", 4, 1, 1.0, 1.0),
    "stillhouse_cut2_vector_loss": ("cut2", 4, 1, 1.0, 0.0),
    "stillhouse_cut2_similarity_loss": ("cut2", 4, 1, 0.0, 1.0),
    "stillhouse_cut3": ("cut3", 4, 1, 1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """Texts whose labels are known, texts that are asked about, and pairs of the latter, int64 [pairs, 2]."""

    known: list[str]
    known_labels: list[str]
    asked: list[str]
    asked_labels: list[str]
    pairs: NDArray[np.int64]


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark. Interrupted, it gives the figures of whole seeds; there must be two."""
    from stillhouse.distill.embeddings.training import encode, export_encoder
    from stillhouse.distill.static_embeddings import encoded_vocabulary

    begun = meta.start()
    rows = load(data if data is not None else shared("clinc150"))
    order = np.random.default_rng(0).permutation(len(rows.train))
    train = [rows.train[i] for i in order]
    share, seeds = (8, QUICK_SEEDS) if quick else (1, SEEDS)
    known, rest = train[: KNOWN // share], [row.text for row in train[KNOWN // share :]]
    pool, select = rest[: POOL // share], rest[POOL // share : (POOL + SELECT) // share]
    asked = [rows.test[i] for i in np.random.default_rng(1).permutation(len(rows.test))[: ASKED // share]]
    pairs = np.random.default_rng(2).integers(len(asked), size=(PAIRS, 2))
    judged = Judged(
        [row.text for row in known],
        [row.label for row in known],
        [row.text for row in asked],
        [row.label for row in asked],
        pairs[pairs[:, 0] != pairs[:, 1]],
    )
    folder = ensure_encoder(HOME / "home")
    whole = SentenceEncoder(folder)
    vectors, select_vectors = whole.encode(pool)[0], whole.encode(select)[0]
    right, wanted = _judge(whole.encode(judged.known)[0], whole.encode(judged.asked)[0], judged)
    of_teacher = rate(int(right.sum()), len(right))
    interval = [of_teacher["low"], of_teacher["high"]]
    result: dict[str, Any] = {
        "teacher": _file(folder, judged)
        | {"nearest_label": of_teacher["value"], "nearest_label_interval": interval, "rank_correlation": 1.0}
    }
    cpu = time.process_time()
    encoded_vocabulary()  # what all static students start from is made once
    vocabulary_cpu = time.process_time() - cpu
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in STUDENTS}
    try:
        for seed in range(seeds):
            places = np.random.default_rng(seed).permutation(len(pool))[: LEARN // share]
            for name in STUDENTS:
                cpu = time.process_time()
                student = _learnt(name, [pool[i] for i in places], vectors[places], select, select_vectors, seed, quick)
                spent = time.process_time() - cpu
                right, similar = _judge(encode(student, judged.known), encode(student, judged.asked), judged)
                correlation = float(spearmanr(similar, wanted).statistic)
                runs[name].append({"nearest": float(right.mean()), "correlation": correlation, "cpu": spent})
                if seed == 0:
                    with tempfile.TemporaryDirectory() as scratch:
                        export_encoder(student, Path(scratch))
                        result[name] = _file(Path(scratch), judged)
                print(f"{name}, seed {seed}: {runs[name][-1]}", file=sys.stderr)
    except KeyboardInterrupt:
        seeds = whole_seeds(runs)
        runs = {name: found[:seeds] for name, found in runs.items()}
    for name, found in runs.items():
        result[name] |= summary(found, runs[name.split("_vector")[0].split("_similarity")[0]])
    for figures in result.values():
        figures["times_cheaper_than_teacher"] = figures["texts_per_cpu_s"] / result["teacher"]["texts_per_cpu_s"]
    packages = ("onnxruntime", "torch", "numpy", "scipy")
    result["meta"] = meta.finish(begun, repeats=seeds, quick=quick, data=rows.name, packages=packages)
    result["meta"]["vocabulary_cpu_s"] = vocabulary_cpu
    return result


def summary(runs: Sequence[Mapping[str, float]], of_both: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """A student's figures over its seeds; for one that learnt one loss, beside the one of the same seeds of both."""
    found: dict[str, Any] = {"seeds": len(runs), "training_cpu_s": float(np.mean([one["cpu"] for one in runs]))}
    for key, name in (("nearest", "nearest_label"), ("correlation", "rank_correlation")):
        values, both = (np.array([one[key] for one in some]) for some in (runs, of_both))
        found |= {
            name: float(values.mean()),
            f"{name}_std": float(values.std(ddof=1)),
            f"{name}_interval": list(paired_interval(values)),
        }
        if runs is not of_both:
            found[f"{name}_difference"] = float((values - both).mean())
            found[f"{name}_difference_ci"] = list(paired_interval(values - both))
    return found


def _learnt(
    name: str,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    select: Sequence[str],
    select_vectors: NDArray[np.float32],
    seed: int,
    quick: bool,
) -> Any:
    import torch

    from stillhouse.distill.embeddings.students import CutSentences, StaticEncoder
    from stillhouse.distill.embeddings.training import distil, ids

    kind, epochs, quick_epochs, vector, similarity = STUDENTS[name]
    torch.manual_seed(seed)
    student = StaticEncoder(ids(texts), 256, vectors.shape[1]) if kind == "static" else CutSentences(int(kind[-1]))
    return distil(
        student,
        texts,
        vectors,
        select,
        select_vectors,
        seed=seed,
        epochs=quick_epochs if quick else epochs,
        vector=vector,
        similarity=similarity,
    )


def _judge(
    known: NDArray[np.float32], asked: NDArray[np.float32], judged: Judged
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether each asked text's nearest known one has its label, bool [asked], and the pairs' similarities [pairs]."""
    nearest = (asked @ known.T).argmax(axis=1)
    right = [judged.known_labels[i] == label for i, label in zip(nearest, judged.asked_labels, strict=True)]
    first, second = judged.pairs.T
    return np.array(right), (asked[first] * asked[second]).sum(axis=1).astype(np.float64)


def _file(folder: Path, judged: Judged) -> dict[str, Any]:
    """Speed and size of the encoder in `folder`, as it serves."""
    encoder = SentenceEncoder(folder)
    encoder.encode(judged.asked[:8])  # warm
    cpu = time.process_time()
    encoder.encode(judged.asked)
    spent = time.process_time() - cpu
    return {
        "texts_per_cpu_s": len(judged.asked) / max(spent, 1e-9),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
    }


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    rows, losses = [], []
    for name, of in result.items():
        if name == "meta":
            continue
        low, high = of["nearest_label_interval"]
        reach = of.get("rank_correlation_interval")
        rows.append(
            [
                name,
                of["texts_per_cpu_s"],
                of["times_cheaper_than_teacher"],
                of["bytes"] / 1e6,
                f"{percent(of['nearest_label'])} ({100 * low:.1f}–{100 * high:.1f})",
                f"{100 * of['nearest_label_std']:.1f}" if "nearest_label_std" in of else None,
                f"{of['rank_correlation']:.3f}" + (f" ({reach[0]:.3f}–{reach[1]:.3f})" if reach else ""),
                f"{of['rank_correlation_std']:.3f}" if "rank_correlation_std" in of else None,
                of.get("training_cpu_s"),
            ]
        )
        if "nearest_label_difference" in of and "_loss" in name:
            label, rank = of["nearest_label_difference_ci"], of["rank_correlation_difference_ci"]
            losses.append(
                [
                    name,
                    f"{100 * of['nearest_label_difference']:+.1f} ({100 * label[0]:+.1f} to {100 * label[1]:+.1f})",
                    f"{of['rank_correlation_difference']:+.3f} ({rank[0]:+.3f} to {rank[1]:+.3f})",
                ]
            )
    vocabulary = result["meta"]["vocabulary_cpu_s"]
    facts = (
        f"{result['meta']['repeats']} seeds. Static students start from vectors of the whole vocabulary, which take "
        f"{vocabulary:.0f} CPU-s once."
    )
    return f"{table(HEADINGS, rows)}\n\n{table(OF_LOSSES, losses)}\n\n{facts}"
