"""The data of benchmarks: folders or files of labelled texts, read as `DATA=...` names them."""

from __future__ import annotations

import gzip
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.meta import ROOT

# The data sets lie beside the checkout; a checkout elsewhere names their folder.
SHARED = Path(os.environ.get("STILLHOUSE_BENCH_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Row:
    """One text; `label` is the truth, `teacher` a recorded teacher's answer where the file has one.

    `domain`: the group that its label belongs to, where the file says so.
    """

    text: str
    label: str
    teacher: str | None = None
    timestamp: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """Rows to learn from and rows to judge on, and what they are called."""

    name: str
    train: list[Row]
    test: list[Row]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, of truth and of recorded teachers, sorted."""
        rows = self.train + self.test
        return tuple(sorted({row.label for row in rows} | {row.teacher for row in rows if row.teacher}))


def shared(name: str) -> Path:
    """The folder of a shared data set, beside the checkout. Ends the program with a sentence where it is not there."""
    folder = SHARED / name
    if not folder.is_dir():
        sys.exit(f"{folder} is not there; name your own data with DATA=FILE OUT=FILE.")
    return folder


def load(path: Path, *, in_order: bool = False) -> Data:
    """A folder with `train`, `dev` (joined to train) and `test`, or one file.

    A file is split by its rows' `split`, else by a fixed seed, four fifths to learn from; with `in_order` the first
    two fifths. Ends the program with a sentence where there is nothing usable.
    """
    if path.is_dir():
        parts = {name: _read(_file(path, name)) for name in ("train", "test")}
        return Data(path.name, [_row(raw) for raw in parts["train"]], [_row(raw) for raw in parts["test"]])
    raws = _read(path)
    if any("split" in raw for raw in raws):
        train = [_row(raw) for raw in raws if raw.get("split") != "test"]
        test = [_row(raw) for raw in raws if raw.get("split") == "test"]
    else:
        rows = [_row(raw) for raw in raws]
        if not in_order:
            order = np.random.default_rng(0).permutation(len(rows))
            rows = [rows[i] for i in order]
        cut = len(rows) * (2 if in_order else 4) // 5
        train, test = rows[:cut], rows[cut:]
    if not train or not test:
        sys.exit(f"{path}: needs rows to learn from and rows to judge on; found {len(train)} and {len(test)}.")
    return Data(path.name, train, test)


def load_dev(path: Path) -> list[Row]:
    """The rows of a folder's `dev` part; none where it has none."""
    found = list(path.glob("dev.jsonl*")) if path.is_dir() else []
    return [_row(raw) for raw in _read(found[0])] if found else []


def _file(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}.jsonl*"))
    if not found:
        sys.exit(f"{folder} has no {name}.jsonl or {name}.jsonl.gz.")
    return found[0]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: cannot be read ({error}); give .jsonl or .jsonl.gz with text and label.")


def _row(raw: dict[str, Any]) -> Row:
    try:
        label = raw.get("gold") or raw.get("label") or raw["teacher"]
        return Row(str(raw["text"]), str(label), raw.get("teacher"), raw.get("timestamp"), raw.get("domain"))
    except KeyError as error:
        sys.exit(f"A row has no {error.args[0]!r}; every row needs text and label.")
