"""Files of texts with answers, as `sweep`, `students compare`, `design` and `export` take them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXTS = ("text", "input")
ANSWERS = ("teacher", "output", "label")
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text and the answer that students must agree with: a recorded teacher's where the row has one."""

    text: str
    answer: str
    distribution: dict[str, float]
    split: str | None = None
    group: str | None = None
    time: str | None = None


def read_labelled(path: Path) -> list[Labelled]:
    """The rows of a file, or of the files of a folder, whose names are then their split. ValueError in one sentence.

    A row has `text` (or `input`), `teacher` (or `output`, or `label`), and may have `distribution`, `split`, `group`
    (or `domain`) and `time` (or `timestamp`).
    """
    rows = [_labelled(row, where, file, path.is_dir()) for file in _files(path) for where, row in _rows(file)]
    if not rows:
        raise ValueError(f"{path} holds no rows; give texts with answers")
    return rows


def read_texts(path: Path, most: int) -> list[str]:
    """The first `most` texts of a file or folder as `read_labelled` takes; rows need no answers. ValueError likewise.

    A folder's `test` file comes first: what students have not learnt from says most.
    """
    texts: list[str] = []
    for file in sorted(_files(path), key=lambda file: file.name.split(".")[0] != "test"):
        for where, row in _rows(file):
            if len(texts) == most:
                return texts
            text = _text(row)
            if not isinstance(text, str):
                raise ValueError(f"{where}: needs {' or '.join(TEXTS)}, as a string")
            texts.append(text)
    if not texts:
        raise ValueError(f"{path} holds no rows; give texts")
    return texts


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; name texts with answers")
    files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES)) if path.is_dir() else [path]
    if not files or not all(file.name.endswith(SUFFIXES) for file in files):
        raise ValueError(f"{path}: no {', '.join(SUFFIXES)} file; write texts with answers in one of these formats")
    return files


def _text(row: dict[str, Any]) -> Any:
    return next((row[name] for name in TEXTS if row.get(name)), None)


def _labelled(row: dict[str, Any], where: str, file: Path, in_folder: bool) -> Labelled:
    text, answer = _text(row), next((row[name] for name in ANSWERS if row.get(name)), None)
    if not isinstance(text, str) or not isinstance(answer, str):
        raise ValueError(f"{where}: needs {' or '.join(TEXTS)}, and {' or '.join(ANSWERS)}, as strings")
    shares = row.get("distribution")
    try:
        shares = json.loads(shares) if isinstance(shares, str) and shares else shares or {}
        distribution = {str(label): float(share) for label, share in shares.items()}
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{where}: distribution is not an object of labels and probabilities") from None
    named = row.get("split") or (file.name.split(".")[0] if in_folder else None)
    group, time = row.get("group") or row.get("domain"), row.get("time") or row.get("timestamp")
    return Labelled(text, answer, distribution, named, str(group) if group else None, str(time) if time else None)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        raw = file.read_bytes()
        content = (gzip.decompress(raw) if file.name.endswith(".gz") else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    if file.name.endswith(".csv"):
        try:
            for number, row in enumerate(csv.DictReader(io.StringIO(content, newline=""), strict=True), 2):
                yield f"{file}: row {number}", row
        except csv.Error as error:
            raise ValueError(f"{file}: not CSV ({error}); mend the quotes") from None
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told: Any = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ValueError(f"{file}: line {number}: not a JSON object; write one row a line")
        yield f"{file}: line {number}", told
