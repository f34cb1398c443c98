"""The shadow and canary tests: what is kept of the audits, and what it says. Pure."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stillhouse.events import Condition, InferenceAudited
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.quality.quantiles import quantile_bounds
from stillhouse.tasks import Gate
from stillhouse.tasks.conditions import Latency

Verdict = Literal["passed", "failed", "undecided"]


class Shadow(BaseModel):
    """Audits of a shadow student: it answers real traffic, and nobody gets its answers."""

    model_config = ConfigDict(frozen=True)

    n: int = 0  # requests that the student was asked
    errors: int = 0
    latencies_ms: tuple[float, ...] = ()
    foreign_sha256: str | None = None  # an artefact that is not the gated one answered
    request_ids: tuple[str, ...] = ()  # answered, for the replay
    announced: bool = False


class Canary(BaseModel):
    """Audits of a canary: losses against the floor, one at a time."""

    model_config = ConfigDict(frozen=True)

    test: dict[str, Any]
    n: int = 0  # audits; the test counts fewer where the promise is selective
    served: int = 0
    announced: bool = False

    @classmethod
    def start(cls, gate: Gate, alpha: float) -> Canary:
        """No audits yet; `alpha` is the student's share."""
        return cls(test=AgreementTest(1.0 - gate.epsilon, alpha).to_dict())


def shadow_step(state: Shadow, audit: InferenceAudited, sha256: str, wanted: int) -> Shadow:
    """Count one audit; `sha256` is the gated artefact's. Policy requests never reach the student and do not count."""
    if audit.policy or state.n >= wanted or state.foreign_sha256 is not None:
        return state
    if audit.artefact_sha256 != sha256:
        return state.model_copy(update={"foreign_sha256": audit.artefact_sha256})
    if audit.student is None:
        return state.model_copy(update={"n": state.n + 1, "errors": state.errors + 1})
    return state.model_copy(
        update={
            "n": state.n + 1,
            "latencies_ms": (*state.latencies_ms, audit.student.latency_ms),
            "request_ids": (*state.request_ids, audit.request_id),
        }
    )


def shadow_wanted(gate: Gate) -> int:
    """Requests that shadow takes at most: more than usual where the latency is to be decided with error control."""
    return max(gate.shadow_requests, gate.max_cases) if _latency_of(gate) is not None else gate.shadow_requests


def shadow_conditions(state: Shadow, gate: Gate, sha256: str, alpha: float) -> list[Condition]:
    """Artefact, errors and latency; whether the outputs are equal is found by replaying the inputs."""
    lower, upper = clopper_pearson(state.errors, state.n) if state.n else (0.0, 1.0)
    enough = state.n >= gate.shadow_requests
    # Already too many for the whole stage: no need to wait for its end.
    too_many = state.errors > gate.max_error_rate * gate.shadow_requests
    return [
        Condition(
            name="artefact",
            verdict="failed" if state.foreign_sha256 else "passed" if enough else "undecided",
            n=state.n,
            note=f"answers came from {(state.foreign_sha256 or sha256)[:12]}, gated is {sha256[:12]}",
        ),
        Condition(
            name="errors",
            verdict="failed" if too_many else "passed" if enough else "undecided",
            floor=gate.max_error_rate,
            estimate=state.errors / state.n if state.n else None,
            lower=lower,
            upper=upper,
            n=state.n,
            note="share of requests that the student failed; at most the floor",
        ),
        _latency(state, gate, enough, alpha),
    ]


def _latency(state: Shadow, gate: Gate, enough: bool, alpha: float) -> Condition:
    """The 99th percentile: as seen at the end of shadow, or, where the task lists `latency`, beyond doubt."""
    wanted = _latency_of(gate)
    ceiling = gate.latency_p99_ms if wanted is None else wanted.ceiling
    p99 = quantile(state.latencies_ms, 0.99)
    lower, upper = quantile_bounds(state.latencies_ms, 0.99, alpha)
    condition = Condition(
        name="latency",
        verdict="undecided" if not enough else "passed" if p99 <= ceiling else "failed",
        floor=ceiling,
        ceiling=ceiling,
        estimate=p99 if state.latencies_ms else None,
        lower=lower if math.isfinite(lower) else None,
        upper=upper if math.isfinite(upper) else None,
        n=len(state.latencies_ms),
        note="99th percentile in ms, waiting included; at most the ceiling; bounds by order statistics",
    )
    if wanted is None:
        return condition
    test = AgreementTest(0.99, alpha)
    for latency in state.latencies_ms:
        test.update(latency <= ceiling)
    verdict = test.verdict
    if verdict == "undecided" and state.n >= shadow_wanted(gate):
        verdict = "failed"
    note = f"{test.agreements} of {test.n} requests took at most {ceiling:g} ms, 99 % must; anytime-valid test"
    told = {"verdict": verdict, "note": note, "evidence": math.exp(min(test.log_e_pass, 700.0))}
    return condition.model_copy(update=told | {"needs_more": test.needs_more() or None})


def _latency_of(gate: Gate) -> Latency | None:
    return next((one for one in gate.conditions if isinstance(one, Latency)), None)


def canary_step(state: Canary, audit_loss: bool, would_serve: bool, *, selective: bool = False) -> Canary:
    """Count one audit, policy requests too: they are part of all requests, and agree.

    With `selective` the test counts what the student would serve, and nothing else.
    """
    test = AgreementTest.from_dict(state.test)
    if test.verdict != "undecided":
        return state
    if would_serve or not selective:
        test.update(not audit_loss)
    return state.model_copy(update={"test": test.to_dict(), "served": state.served + would_serve, "n": state.n + 1})


class StageVerdict(BaseModel):
    """What a stage's test says now."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    reason: str
    n: int
    final: bool = True
    evidence: float = 0.0
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    alpha: float = 0.0
    coverage: float | None = None
    needs_more: int | None = None
    conditions: list[Condition] = Field(default_factory=list)


def canary_verdict(state: Canary, gate: Gate) -> StageVerdict:
    """Passed, failed, or undecided: for good at the end of the case budget."""
    test = AgreementTest.from_dict(state.test)
    lower, upper = test.lower_bound(1 - test.alpha), test.upper_bound(1 - test.alpha)
    final = test.verdict != "undecided" or state.n >= gate.max_cases
    evidence = math.exp(min(test.log_e_pass, 700.0))
    needs_more = None if final else test.needs_more()
    estimate = test.agreements / test.n if test.n else None
    condition = Condition(
        name="agreement",
        verdict=test.verdict,
        floor=test.floor,
        estimate=estimate,
        lower=lower,
        upper=upper,
        n=test.n,
        evidence=evidence,
        note=f"1 - {'P(different | served)' if test.n < state.n else 'P(served and different)'} over canary audits; "
        "anytime-valid bounds",
        needs_more=needs_more,
    )
    said = {"passed": "above", "failed": "below", "undecided": "not yet above or below"}[test.verdict]
    return StageVerdict(
        verdict=test.verdict,
        reason=f"agreement on canary traffic is {said} {test.floor:.3f}",
        n=test.n,
        final=final,
        evidence=evidence,
        estimate=estimate,
        lower=lower,
        upper=upper,
        alpha=test.alpha,
        coverage=state.served / state.n if state.n else None,
        needs_more=needs_more,
        conditions=[condition],
    )


def quantile(values: tuple[float, ...], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed; infinity where there are none."""
    if not values:
        return math.inf
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
