"""What terms on hidden layers need of the student that they teach, so that none fails in training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from stillhouse.tasks.distillation import AnyFeature, SelfAttention

# The sentence encoder, whose lowest layers a cut encoder is, and which teaches hidden layers.
ENCODER_LAYER: Final = "transformer.encoder.layer"  # path of its layers, whose numbers begin with 0
ENCODER_LAYERS: Final = 6
ENCODER_HEADS: Final = 12
HEAD_WIDTH: Final = 32
_PATH: Final = re.compile(re.escape(ENCODER_LAYER) + r"\.(\d+)(\..+)?")


def check_features(
    terms: Sequence[AnyFeature], *, layers: int, learn_layers: int, width: float, token_dropout: float
) -> None:
    """Raises ValueError, one sentence with the mend, for the first of a cut encoder's `terms` that cannot be."""
    for term in terms:
        if token_dropout:
            raise ValueError(
                f"{term.kind} compares each token with the teacher's, of which token_dropout leaves out some; "
                "remove one of the two"
            )
        _check_path(term, "student", term.student, layers - learn_layers, layers)
        _check_path(term, "teacher", term.teacher, 0, ENCODER_LAYERS)
        if isinstance(term, SelfAttention):
            _check_heads(term, width)


def _check_path(term: AnyFeature, whose: str, path: str | None, lowest: int, end: int) -> None:
    """The path is of one of the layers from `lowest` up to `end`, or of something in it."""
    if path is None or (whose == "teacher" and path.startswith("transformer.embeddings")):
        return
    found = _PATH.fullmatch(path)
    if found and lowest <= int(found[1]) < end and not (found[2] and isinstance(term, SelfAttention)):
        return
    known = f"{ENCODER_LAYER}.{lowest}"
    if lowest + 1 < end:
        known += f" to {ENCODER_LAYER}.{end - 1}"
    if whose == "student":
        raise ValueError(
            f"{term.kind} names {path!r} of the student, whose layers that learn are {known}; "
            "name one of them, or set learn_layers higher"
        )
    raise ValueError(f"{term.kind} names {path!r} of the teacher, whose layers are {known}; name one of them")


def _check_heads(term: SelfAttention, width: float) -> None:
    heads = max(1, round(width * ENCODER_HEADS))  # as width pruning counts them
    if "attention" in term.parts and heads != ENCODER_HEADS:
        raise ValueError(
            f"minilm's attention needs the teacher's {ENCODER_HEADS} heads, of which width = {width:g} keeps {heads}; "
            'set parts = ["queries", "keys", "values"]'
        )
    if set(term.parts) != {"attention"}:
        for size in (ENCODER_HEADS * HEAD_WIDTH, heads * HEAD_WIDTH):
            if size % term.heads:
                raise ValueError(f"minilm cannot cut vectors of width {size} into {term.heads} heads; name a divisor")
