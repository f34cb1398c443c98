"""Files that several processes share: JSON that is never read half-written, and locks that end with their holder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write `value` durably and at once: readers see the old file or the new one. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None where there is no such file or it is cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold an exclusive lock between processes on `path`; it is released when this process ends, however it ends.

    Gives the lock's descriptor: a child that inherits it holds the lock too, for as long as it lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def is_locked(path: Path) -> bool:
    """Whether somebody holds `path` exclusively."""
    try:
        file = path.open("r", encoding="utf-8")
    except FileNotFoundError:
        return False
    with file:
        try:
            # Shared, so that two who look at once do not take each other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
