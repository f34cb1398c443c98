"""Texts of the domain that nobody labelled, labelled by the teacher: self-training's pseudo-labels with a teacher that
is better than the student (Noisy Student, Xie et al. 1911.04252, without the noise; Sanh et al. 1910.01108).

>>> def teacher(texts):
...     return [LabelledText(text, "refund", {"refund": 0.9, "order": 0.1}) for text in texts]
>>> labelled_by_teacher(["money back please", "MONEY back please"], teacher, known=()).texts
[LabelledText(text='money back please', label='refund', distribution={'refund': 0.9, 'order': 0.1}, weight=1.0)]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stillhouse.distill.data import LabelledText
from stillhouse.quality.near_duplicates import NearDuplicates


@dataclass(frozen=True, slots=True)
class Labelled:
    """`texts` that may teach; `asked` calls of the teacher; `repeated` texts left out before, `unsure` ones after."""

    texts: list[LabelledText]
    asked: int
    repeated: int
    unsure: int


def labelled_by_teacher(
    texts: Sequence[str],
    teacher: Callable[[Sequence[str]], Sequence[LabelledText]],
    known: Sequence[str],
    *,
    least_confidence: float = 0.0,
    weight: float = 1.0,
    at_once: int = 64,
) -> Labelled:
    """Ask `teacher` about those of `texts` that repeat neither `known` (give it what judges, too) nor each other.

    Answers whose label has less than `least_confidence` of the teacher's probability are left out; `weight` is what the
    others count for beside recorded texts. ValueError where the teacher gives another number of answers than asked.
    """
    found = NearDuplicates(list(known)) if known else None
    seen: set[str] = set()
    asked: list[str] = []
    for text in texts:
        plain = " ".join(text.casefold().split())
        if not plain or plain in seen or (found is not None and found.find(text) is not None):
            continue
        seen.add(plain)
        asked.append(text)
    kept: list[LabelledText] = []
    for start in range(0, len(asked), at_once):
        batch = asked[start : start + at_once]
        said = teacher(batch)
        if len(said) != len(batch):
            raise ValueError(f"the teacher gave {len(said)} answers to {len(batch)} texts")
        kept += [replace(one, weight=weight) for one in said if _sure(one) >= least_confidence]
    return Labelled(kept, len(asked), len(texts) - len(asked), len(asked) - len(kept))


def _sure(text: LabelledText) -> float:
    return text.distribution.get(text.label, 1.0 if not text.distribution else 0.0)
