"""Marks of a chat template, such as `<|im_end|>`: a text that writes one neither teaches nor reaches a student."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TOKENIZER_FILE: Final = "tokenizer.json"


def control_tokens(folder: Path) -> tuple[str, ...]:
    """The texts that a checkpoint's tokenizer reads as marks, such as `<|im_end|>`.

    Whoever writes one into a question could end it, and go on in the words of another role.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        added = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8")).get("added_tokens") or ()
        return tuple(str(token["content"]) for token in added if token.get("special") and token["content"])
    return ()


def imitated(marks: tuple[str, ...], texts: Sequence[str]) -> str | None:
    """The first of `marks` that is written in one of `texts`; None where none is."""
    return next((mark for mark in marks for text in texts if mark in text), None)
