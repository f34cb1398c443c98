"""What advice is given on: a request and the teacher's answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `policy`: an always-escalate rule decided it; `usd`: what the teacher's call cost, where known."""

    input: str
    output: str
    time: datetime | None = None
    usd: float | None = None
    policy: bool = False
