"""The one port behind which teachers and students stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one input.

    `confidence` in [0, 1]; `distribution` maps label to probability, entries under 0.001 may be left out;
    `latency_ms` and `cpu_ms` are this input's share of its batch; `cost_usd` is the price of the call.
    """

    output: str
    confidence: float
    distribution: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float = 0.0
    cpu_ms: float = 0.0
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    policy: str | None = None  # name of the always-escalate rule that decided, where one did


class ModelError(Exception):
    """The model could not answer; the message says why in one sentence."""


@runtime_checkable
class Model(Protocol):
    """A teacher or a student."""

    @property
    def version(self) -> str:
        """Names what answers: a teacher version or a student id."""
        ...

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """One prediction per input, in order. Raises `ModelError`."""
        ...
