"""Temperature and alpha over training: constant, linear or cosine, from one value to another.

Annealing the temperature starts from the teacher's softest shape and ends at its own (Jafari et al. 2104.07163);
moving alpha from 0 to 1 starts from the teacher and ends at the labels (Clark et al. 1907.04829, teacher annealing).

On clinc150 students of n-grams agree less with either shape than without: `make bench NAME=schemes`.

>>> softer = Schedule(4.0, 1.0, "linear")
>>> [softer.at(progress) for progress in (0.0, 0.5, 1.0)]
[4.0, 2.5, 1.0]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A number that goes from `start` to `end` while training goes from 0 to 1. `constant` stays at `start`.

    linear: start + (end - start) t. cosine: end + (start - end) (1 + cos(pi t)) / 2, slow at both ends (1608.03983).
    ValueError for another shape, or a constant with two different ends.
    """

    start: float
    end: float
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"no schedule is called {self.shape!r}; use {', '.join(get_args(Shape))}")
        if self.shape == "constant" and self.start != self.end:
            raise ValueError(f"a constant schedule cannot go from {self.start:g} to {self.end:g}; say linear or cosine")

    def at(self, progress: float) -> float:
        """The value after the share `progress` of training; before 0 and after 1 it is that of the end there."""
        done = min(1.0, max(0.0, progress))
        if self.shape == "constant":
            return self.start
        share = done if self.shape == "linear" else (1.0 - math.cos(math.pi * done)) / 2.0
        return self.start + (self.end - self.start) * share
