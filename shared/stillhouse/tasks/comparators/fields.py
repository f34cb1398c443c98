"""JSON documents, field by field."""

from __future__ import annotations

import json
import math
from typing import Any

from stillhouse.tasks.comparators.settings import JsonFields

_ABSENT = object()


def field_score(settings: JsonFields, student: str, teacher: str) -> float:
    """The share of fields that are equal. What is no JSON is compared as text; missing on both sides is equal."""
    try:
        ours, theirs = flat(_json(student)), flat(_json(teacher))
    except ValueError:
        return float(student == teacher)
    names = settings.fields or tuple(sorted(ours.keys() | theirs.keys()))
    equal = [_equal(_under(ours, name), _under(theirs, name), settings.tolerance) for name in names]
    return sum(equal) / len(equal)


def _json(text: str) -> Any:
    """Raises ValueError for what is no JSON; NaN and Infinity, which Python would read, are none (RFC 8259)."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves by path: `{"a": {"b": [1]}}` is `{"a.b.0": 1}`. Empty lists and objects are leaves."""
    if isinstance(value, dict) and value:
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        parts = [(str(place), item) for place, item in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, item in parts for name, leaf in flat(item, f"{path}.{key}" if path else key).items()}


def _under(leaves: dict[str, Any], name: str) -> dict[str, Any]:
    """The leaf `name`, or all leaves under it."""
    return {path: leaf for path, leaf in leaves.items() if path == name or path.startswith(f"{name}.")}


def _equal(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> bool:
    return all(
        _same(ours.get(path, _ABSENT), theirs.get(path, _ABSENT), tolerance) for path in ours.keys() | theirs.keys()
    )


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=tolerance)
    return bool(a == b)
