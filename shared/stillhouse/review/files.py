"""Files of cases and verdicts, whatever tool reads or wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from stillhouse.review import argilla, jsonl, label_studio
from stillhouse.review.queue import Case, Said

Format = Literal["argilla", "label-studio", "jsonl"]


def dump(cases: Sequence[Case], format_: Format, *, blind: bool = False) -> str:
    """The cases as a file for a tool. `blind`: without what the models said, so that it sways nobody."""
    if format_ == "argilla":
        return argilla.dump(cases, blind=blind)
    if format_ == "label-studio":
        return label_studio.dump(cases, blind=blind)
    return jsonl.dump(cases, blind=blind)


def load(text: str) -> list[Said]:
    """What people said in a file; which tool wrote it shows in it. Raises `ValueError` with what is wrong where."""
    if not text.lstrip().startswith("["):
        return jsonl.load(text)
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if entries and isinstance(entries[0], dict) and "data" in entries[0]:
        return label_studio.load(entries)
    if entries and isinstance(entries[0], dict) and "fields" in entries[0]:
        return argilla.load(entries)
    if entries:
        raise ValueError("a JSON list, but neither of Argilla's records nor of Label Studio's tasks")
    return []
