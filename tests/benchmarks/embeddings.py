"""`embeddings`: smaller sentence encoders beside the one whose vectors they learnt, on unlabelled texts.

The teacher is the product's sentence encoder; students learn its vectors of 6,000 texts without labels. Judged on texts
that taught nobody: the nearest of 2,000 labelled texts (cosine) has the right label; rank correlation (Spearman) of the
similarities of 20,000 random pairs with the teacher's; texts per CPU-second in batches of 8, one thread, as exported.
`stillhouse_static_as_it_came` has learnt nothing but its linear map.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.encoder import SentenceEncoder, ensure_encoder
from tests.benchmarks import meta
from tests.benchmarks.data import load, shared
from tests.benchmarks.peers import HOME
from tests.benchmarks.report import percent, rate, table

LEARN, SELECT, KNOWN, ASKED, PAIRS = 6000, 500, 2000, 1000, 20_000
HEADINGS = ("encoder", "texts / CPU-s", "× teacher", "MB", "nearest label right", "rank correlation", "training CPU-s")


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    from stillhouse.distill.embeddings.students import CutSentences, StaticEncoder
    from stillhouse.distill.embeddings.training import distil, export_encoder, ids

    begun = meta.start()
    rows = load(data if data is not None else shared("clinc150"))
    order = np.random.default_rng(0).permutation(len(rows.train))
    train = [rows.train[i] for i in order]
    share = 8 if quick else 1
    known, rest = train[: KNOWN // share], train[KNOWN // share :]
    learn = [row.text for row in rest[: LEARN // share]]
    select = [row.text for row in rest[LEARN // share : (LEARN + SELECT) // share]]
    places = np.random.default_rng(1).permutation(len(rows.test))[: ASKED // share]
    asked = [rows.test[i] for i in places]
    folder = ensure_encoder(HOME / "home")
    whole = SentenceEncoder(folder)
    vectors, select_vectors = whole.encode(learn)[0], whole.encode(select)[0]
    judged = {"known": [row.text for row in known], "asked": [row.text for row in asked]}
    truth = ([row.label for row in known], [row.label for row in asked])

    of_teacher, wanted = _measured(folder, judged, truth, None)
    result: dict[str, Any] = {"teacher": of_teacher}
    width = vectors.shape[1]
    students: dict[str, tuple[Any, int]] = {
        "stillhouse_static_as_it_came": (lambda: StaticEncoder(ids(learn), 256, width), 0),
        "stillhouse_static": (lambda: StaticEncoder(ids(learn), 256, width), 2 if quick else 10),
        "stillhouse_cut2": (lambda: CutSentences(2), 1 if quick else 4),
        "stillhouse_cut3": (lambda: CutSentences(3), 1 if quick else 4),
    }
    for name, (make, epochs) in students.items():
        cpu = time.process_time()
        student = distil(make(), learn, vectors, select, select_vectors, seed=0, epochs=epochs)
        spent = time.process_time() - cpu
        with tempfile.TemporaryDirectory() as scratch:
            export_encoder(student, Path(scratch))
            result[name] = _measured(Path(scratch), judged, truth, wanted)[0] | {"training_cpu_s": spent}
    for figures in result.values():
        figures["times_cheaper_than_teacher"] = figures["texts_per_cpu_s"] / result["teacher"]["texts_per_cpu_s"]
    packages = ("onnxruntime", "torch", "numpy")
    result["meta"] = meta.finish(begun, repeats=1, quick=quick, data=rows.name, packages=packages)
    return result


def _measured(
    folder: Path, judged: dict[str, list[str]], truth: tuple[list[str], list[str]], wanted: NDArray[np.float64] | None
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Figures of the encoder in `folder`, and its similarities of the random pairs; `wanted` are the teacher's."""
    from scipy.stats import spearmanr

    encoder = SentenceEncoder(folder)
    encoder.encode(judged["asked"][:8])  # warm
    known, _ = encoder.encode(judged["known"])
    cpu = time.process_time()
    asked, _ = encoder.encode(judged["asked"])
    spent = time.process_time() - cpu
    nearest = (asked @ known.T).argmax(axis=1)
    right = rate(sum(truth[0][i] == label for i, label in zip(nearest, truth[1], strict=True)), len(asked))
    pairs = np.random.default_rng(2).integers(len(asked), size=(PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    similar = (asked[pairs[:, 0]] * asked[pairs[:, 1]]).sum(axis=1).astype(np.float64)
    return {
        "texts_per_cpu_s": len(asked) / max(spent, 1e-9),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "nearest_label": right["value"],
        "nearest_label_interval": [right["low"], right["high"]],
        "rank_correlation": 1.0 if wanted is None else float(spearmanr(similar, wanted).statistic),
    }, similar


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = [
        [
            name,
            figures["texts_per_cpu_s"],
            figures["times_cheaper_than_teacher"],
            figures["bytes"] / 1e6,
            f"{percent(figures['nearest_label'])} "
            f"({100 * figures['nearest_label_interval'][0]:.1f}–{100 * figures['nearest_label_interval'][1]:.1f})",
            figures["rank_correlation"],
            figures.get("training_cpu_s"),
        ]
        for name, figures in result.items()
        if name != "meta"
    ]
    return table(HEADINGS, rows)
