"""The data of `cascade`: which texts teach, which certify, which are judged, and the encoder's vectors of all of them.

What students must agree with is the recorded `teacher` where the rows have one, else the label. The calibration part is
held out of the training part: `dev` of a folder, else a fifth of the training rows. It and the test part are pooled and
dealt anew by a fixed seed, sizes kept, because a certificate holds for requests like those that it was made on (the
authors' test part of clinc150 has six times the out-of-scope texts of their dev part). Rows with a `timestamp` are not
dealt anew: a stream is certified on the past and judged on what came later.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.data import LabelledText
from stillhouse.models.encoder import SentenceEncoder, ensure_encoder
from tests.benchmarks.data import Row, load, load_dev
from tests.benchmarks.peers import HOME

SELECT_SHARE = 0.15  # as the trainer has it
FEWEST = {"learn": 60, "calibration": 60, "test": 60}
# Rows and words beyond these are left out, at random, so that any file is done within 20 minutes on 2 cores.
MOST = {"learn": (15_000, 300_000), "calibration": (3_500, 70_000), "test": (6_000, 120_000)}
LONGEST = 128  # words of one text that count: students read 128 tokens


@dataclass(frozen=True, slots=True)
class Parts:
    """Texts with the teacher's answers. `select` is the part of the learning texts that chooses. `left_out`: rows."""

    name: str
    digest: str
    labels: tuple[str, ...]
    train: list[LabelledText]
    select: list[LabelledText]
    calibration: list[LabelledText]
    test: list[LabelledText]
    in_order: bool
    left_out: int
    learnt: str  # digest of the learning texts alone
    teacher: str  # whose answers these are
    undo: NDArray[np.int64] | None  # places of calibration and test, one after the other, in the order of the file

    @property
    def folder(self) -> Path:
        """Where everything made of these texts is kept."""
        return HOME / "cascade" / self.digest


def parts(path: Path, *, quick: bool) -> Parts:
    """The parts of a file or folder. Ends the program with a sentence for too few rows."""
    data, dev = load(path), load_dev(path)
    in_order = all(row.timestamp for row in data.train + data.test)
    # Files are often sorted by label, and parts are cut from the end.
    order = np.arange(len(data.train)) if in_order else np.random.default_rng(1).permutation(len(data.train))
    learn = [data.train[i] for i in order]
    if len(dev) < FEWEST["calibration"]:
        cut = len(learn) - len(learn) // 5
        learn, dev = learn[:cut], dev + learn[cut:]
    held = dev + list(data.test)
    dealt = np.arange(len(held)) if in_order else np.random.default_rng(2).permutation(len(held))
    held = [held[i] for i in dealt]
    seen = {_plain(row.text) for row in held}
    known = [row for row in learn if _plain(row.text) not in seen]
    most = {name: (rows // 4, words // 4) if quick else (rows, words) for name, (rows, words) in MOST.items()}
    kept = {
        "learn": _within(known, *most["learn"]),
        "calibration": _within(held[: len(dev)], *most["calibration"]),
        "test": _within(held[len(dev) :], *most["test"]),
    }
    for name, least in FEWEST.items():
        if len(kept[name]) < least:
            sys.exit(f"{path}: {len(kept[name])} rows for {name}; it takes {least}, some 400 in all. Give more rows.")
    taught = {answer(row) for row in kept["learn"]}
    if len(taught) < 2:
        sys.exit(f"{path}: the rows to learn from have one answer only; a student needs at least two.")
    texts = {name: [LabelledText(row.text, answer(row)) for row in rows] for name, rows in kept.items()}
    cut = len(texts["learn"]) - round(SELECT_SHARE * len(texts["learn"]))
    whole = len(kept["calibration"]) + len(kept["test"]) == len(held)
    facts = [[(text.text, text.label) for text in texts[name]] for name in texts]
    return Parts(
        name=path.name,
        digest=_digest(facts),
        labels=tuple(sorted({text.label for name in texts for text in texts[name]})),
        train=texts["learn"][:cut],
        select=texts["learn"][cut:],
        calibration=texts["calibration"],
        test=texts["test"],
        in_order=in_order,
        left_out=len(data.train) + len(data.test) + len(load_dev(path)) - sum(len(rows) for rows in kept.values()),
        learnt=_digest(facts[0]),
        teacher=_teacher_of([row for rows in kept.values() for row in rows]),
        undo=np.argsort(dealt) if whole and not in_order else None,
    )


def answer(row: Row) -> str:
    """What a student must agree with."""
    return row.teacher or row.label


def _teacher_of(rows: Sequence[Row]) -> str:
    recorded = sum(row.teacher is not None for row in rows)
    if recorded == len(rows):
        return "the recorded teacher's answers"
    labels = "the labels, as if a teacher that is always right had been asked"
    return labels if not recorded else f"the recorded teacher's answers ({recorded:,} rows), else {labels}"


def vectors(of: Parts) -> dict[str, NDArray[np.float32]]:
    """Sentence vectors [n, 384] of each part, by the product's encoder; computed once and kept."""
    path = of.folder / "vectors.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder = SentenceEncoder(ensure_encoder(HOME / "home"), threads=2)
        found = {}
        for name in ("train", "select", "calibration", "test"):
            texts: list[LabelledText] = getattr(of, name)
            found[name], _ = encoder.encode([text.text for text in texts])
            print(f"encoded {name}: {len(texts)} texts", file=sys.stderr)
        draft = path.with_suffix(".tmp.npz")
        np.savez(draft, **found)
        draft.rename(path)
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _within(rows: Sequence[Row], most_rows: int, most_words: int) -> list[Row]:
    """As many of `rows` as the limits allow, drawn at random, in their order."""
    order = np.random.default_rng(3).permutation(len(rows))[:most_rows]
    words = np.cumsum([min(LONGEST, 1 + len(rows[i].text) // 5) for i in order])
    return [rows[i] for i in sorted(order[: int(np.searchsorted(words, most_words, side="right"))])]
