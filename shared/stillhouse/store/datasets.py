"""What erasure does to frozen datasets: their references go, and a mark beside the file stays.

A dataset is `<folder>/<version>.parquet`. Its mark `<version>.erased.json` says that whoever was trained on this
version was trained on something that was erased later. It is written before the references go, so that an interrupted
erasure never loses it, and it holds for a student that is still being trained, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUFFIX = ".erased.json"


def forget(folder: Path, example_ids: Collection[str], input_sha256s: Collection[str]) -> dict[str, int]:
    """Take examples and texts out of every dataset in `folder`; gives the rows taken out by version. Safe to repeat."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids, hashes = pa.array(sorted(example_ids), pa.string()), pa.array(sorted(input_sha256s), pa.string())
    taken = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        erased = pc.or_(pc.is_in(table["example_id"], ids), pc.is_in(table["input_sha256"], hashes))
        rows = int(pc.sum(erased).as_py() or 0)
        if not rows:
            continue
        mark = _read(path.with_suffix(SUFFIX)) or {"rows_before": table.num_rows}
        _replace(path.with_suffix(SUFFIX), json.dumps(mark | {"at": datetime.now(UTC).isoformat()}).encode())
        sink = pa.BufferOutputStream()
        pq.write_table(table.filter(pc.invert(erased)), sink)
        _replace(path, sink.getvalue().to_pybytes())
        taken[path.stem] = rows
    return taken


def erased_datasets(folder: Path) -> dict[str, datetime]:
    """Versions of datasets that lost something to an erasure, and when last."""
    marks = {path.name.removesuffix(SUFFIX): _read(path) for path in folder.glob(f"*{SUFFIX}")}
    return {version: datetime.fromisoformat(mark["at"]) for version, mark in sorted(marks.items()) if mark}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
