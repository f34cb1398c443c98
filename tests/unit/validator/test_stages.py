"""Shadow and canary: what counts, what ends them, and what does not."""

from __future__ import annotations

from services.validator.stages import (
    Canary,
    Shadow,
    canary_step,
    canary_verdict,
    quantile,
    shadow_conditions,
    shadow_step,
)
from tests.unit.validator.audits import SHA, audit, make_task

GATE = make_task().gate


def shadowed(*audits) -> Shadow:
    state = Shadow()
    for item in audits:
        state = shadow_step(state, item, SHA, GATE.shadow_requests)
    return state


def verdicts(state: Shadow) -> dict[str, str]:
    return {condition.name: condition.verdict for condition in shadow_conditions(state, GATE, SHA, 0.05)}


def test_a_full_healthy_shadow_holds_and_a_shorter_one_is_open() -> None:
    audits = [audit(n, "shadow") for n in range(20)]
    assert set(verdicts(shadowed(*audits)).values()) == {"passed"}
    assert set(verdicts(shadowed(*audits[:-1])).values()) == {"undecided"}


def test_policy_requests_do_not_fill_the_shadow() -> None:
    state = shadowed(*(audit(n, "shadow", student=None, policy=True, would_serve=False) for n in range(50)))
    assert state.n == 0


def test_another_artefact_fails_at_once() -> None:
    state = shadowed(audit(1, "shadow"), audit(2, "shadow", artefact_sha256="b" * 64))
    assert verdicts(state)["artefact"] == "failed"


def test_more_errors_than_the_whole_stage_allows_fail_before_its_end() -> None:
    state = shadowed(audit(1, "shadow", student=None, student_error="timeout", would_serve=False))
    assert verdicts(state)["errors"] == "failed"


def test_a_slow_student_fails_on_its_99th_percentile() -> None:
    slow = audit(0, "shadow").student.model_copy(update={"latency_ms": 900.0})  # type: ignore[union-attr]
    state = shadowed(audit(0, "shadow", student=slow), *(audit(n, "shadow") for n in range(1, 20)))
    assert verdicts(state)["latency"] == "failed"
    assert quantile(tuple(float(n) for n in range(1, 101)), 0.99) == 99.0


def canaried(losses: list[bool], alpha: float = 0.025) -> Canary:
    state = Canary.start(GATE, alpha)
    for loss in losses:
        state = canary_step(state, loss, True)
    return state


def test_a_canary_without_losses_passes_and_later_losses_do_not_undo_it() -> None:
    verdict = canary_verdict(canaried([False] * 200), GATE)
    assert (verdict.verdict, verdict.final) == ("passed", True)
    assert verdict.alpha == 0.025
    after = canaried([False] * 200 + [True] * 100)
    assert canary_verdict(after, GATE) == verdict


def test_a_canary_that_loses_fails_and_a_short_one_needs_more() -> None:
    assert canary_verdict(canaried([False, True] * 30), GATE).verdict == "failed"
    open_ = canary_verdict(canaried([False] * 20), GATE)
    assert (open_.verdict, open_.final) == ("undecided", False)
    assert open_.needs_more is not None
    assert open_.needs_more > 0


def test_a_canary_at_the_end_of_its_budget_is_undecided_for_good() -> None:
    gate = GATE.model_copy(update={"max_cases": 60})
    verdict = canary_verdict(canaried(([False] * 19 + [True]) * 3, alpha=1e-4), gate)
    assert (verdict.verdict, verdict.final) == ("undecided", True)


def test_a_selective_canary_counts_what_the_student_would_serve() -> None:
    state = Canary.start(GATE, 0.025)
    for n in range(40):
        state = canary_step(state, False, n % 4 == 0, selective=True)
    verdict = canary_verdict(state, GATE)
    assert (state.n, verdict.n, verdict.coverage) == (40, 10, 0.25)
    assert "P(different | served)" in verdict.conditions[0].note
