"""What calls cost: declared list prices, and measured CPU time at an hourly price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MS_PER_HOUR: Final = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Price:
    """An entry of the price book: USD for one call, and where that figure comes from (shown beside it)."""

    usd_per_call: float
    source: str = "declared"

    def __post_init__(self) -> None:
        check("usd_per_call", self.usd_per_call)

    def __str__(self) -> str:
        return f"{self.usd_per_call:g} USD per call ({self.source})"


def cpu_usd(cpu_ms: float, usd_per_cpu_hour: float) -> float:
    """USD of `cpu_ms` milliseconds of CPU time. Raises `ValueError` for negative or infinite amounts."""
    return check("cpu_ms", cpu_ms) / MS_PER_HOUR * check("usd_per_cpu_hour", usd_per_cpu_hour)


def check(name: str, value: float, largest: float = math.inf) -> float:
    """`value`, where it is a finite number from 0 to `largest`; else a `ValueError` that says so."""
    if not (math.isfinite(value) and 0.0 <= value <= largest):
        upper = f" and at most {largest:g}" if math.isfinite(largest) else ""
        raise ValueError(f"{name} is {value!r}: give a finite number, at least 0{upper}.")
    return value
