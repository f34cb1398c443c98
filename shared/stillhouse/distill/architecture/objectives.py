"""The objectives that `design` recommends: those that beat hard labels in the committed results of `methods`.

The figures stand here because results are not part of the package; a contract test holds them to the results file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillhouse.tasks.distillation import AnyTerm

SOURCE = "agreement beside hard labels: 5 seeds, 2-layer students, 1,000 texts of clinc150; `make bench NAME=methods`"


@dataclass(frozen=True, slots=True)
class Objective:
    """A recipe's terms as `[[student.distill]]` has them, and its gain over hard labels with its 95 % interval.

    `gain`, `low` and `high` in points of agreement. `soft`: it needs the teacher's probabilities.
    """

    name: str
    terms: tuple[AnyTerm, ...]
    gain: float
    low: float
    high: float
    soft: bool = True

    @property
    def source(self) -> str:
        """What the recommendation rests on."""
        return f"{self.gain:+.1f} points ({self.low:+.1f} to {self.high:+.1f}) of {SOURCE}"

    @property
    def written(self) -> str:
        """The terms in one line: each kind with what differs from its defaults."""
        parts = []
        for term in self.terms:
            told = {"weight": term.weight} | term.model_dump(exclude_defaults=True, exclude={"kind"})
            parts.append(f"{term.kind} ({', '.join(f'{name} {value:g}' for name, value in told.items())})")
        return " + ".join(parts)


def objectives(soft: bool) -> list[Objective]:
    """Those that can be learnt by, best first; without the teacher's probabilities (`soft` False) labels alone.

    >>> [one.name for one in objectives(soft=True)][:2]
    ['standardised_logits', 'dkd']
    >>> objectives(soft=False)[0].written
    'hard_labels (weight 1, smoothing 0.1)'
    """
    from stillhouse.tasks.distillation import Correlation, Decoupled, HardLabels, SoftTargets, StandardisedLogits

    found = [
        Objective(
            "standardised_logits",
            (HardLabels(weight=0.1), StandardisedLogits(weight=9.0)),
            gain=10.8,
            low=9.4,
            high=12.2,
        ),
        Objective("dkd", (HardLabels(), Decoupled()), gain=8.5, low=6.9, high=10.1),
        Objective("soft_targets", (HardLabels(weight=0.2), SoftTargets(weight=0.8)), gain=4.1, low=3.2, high=5.1),
        Objective("dist", (HardLabels(), Correlation(inter=2.0, intra=2.0)), gain=3.8, low=2.7, high=4.9),
        Objective("label_smoothing", (HardLabels(smoothing=0.1),), gain=1.3, low=0.4, high=2.2, soft=False),
    ]
    return [one for one in found if soft or not one.soft]
