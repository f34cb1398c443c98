"""Result files, and the tables that are printed of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.quality import clopper_pearson
from tests.benchmarks.meta import ROOT

RESULTS = ROOT / "tests" / "benchmarks" / "results"
QUICK_RESULTS = ROOT / ".stillhouse" / "bench" / "quick"


def whole_seeds(runs: Mapping[str, Sequence[Any]]) -> int:
    """How many seeds every one of `runs` has, where it was interrupted: what came after them does not count.

    Raises `KeyboardInterrupt` for fewer than two, which have no spread.
    """
    seeds = min(map(len, runs.values()))
    if seeds < 2:
        raise KeyboardInterrupt
    return seeds


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result file at once, keys in the order given, numbers rounded to four significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(rounded(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


def rounded(value: Any) -> Any:
    """`value` as JSON types; floats to four significant digits, and infinity (never reached) as null."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number == int(number) and abs(number) < 1e15 else float(f"{number:.4g}")


def rate(events: int, n: int) -> dict[str, Any]:
    """A share with its exact 95 % interval: `{"value", "low", "high", "n"}`."""
    low, high = clopper_pearson(events, n)
    return {"value": events / n if n else None, "low": low, "high": high, "n": n}


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; None is shown as a dash."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "|".join("---" for _ in headings) + "|"]
    lines += ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def shown(cell: object) -> str:
    """A cell's text: three significant digits, thousands separated."""
    if cell is None:
        return "–"
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    if abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as text; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def share(value: Mapping[str, Any] | None, digits: int = 1) -> str:
    """What `rate` gives, as text: the share and its interval."""
    if not value or value.get("value") is None:
        return "–"
    low, high = 100 * value["low"], 100 * value["high"]
    return f"{percent(value['value'], digits)} ({low:.{digits}f}–{high:.{digits}f})"
