"""What the rung above would have cost is said while the one below serves."""

from __future__ import annotations

import doctest

import pytest

from services.trainer import next_rung
from services.trainer.next_rung import next_rung_cpu_s
from services.trainer.policy import Counts, decide
from services.trainer.state import TaskState, fold
from stillhouse.tasks import LanguageModel
from tests.unit.trainer.tasks import make_task, route, trained

RUNGS = (
    {"architecture": "causal_lm", "base": "small", "method": "few_shot"},
    {"architecture": "causal_lm", "base": "small", "method": "lora"},
)
TASK = make_task(
    kind="generate", labels=(), students=RUNGS, teacher={"kind": "openai", "model": "big", "usd_per_call": 0.01}
)
SIZES = {"cpu_s_per_token": 0.01, "tokens_per_example": 50.0, "examples": 200, "weights": 100}


def test_the_example_holds() -> None:
    assert doctest.testmod(next_rung).failed == 0


def test_a_larger_base_costs_more_and_a_prompt_costs_what_it_asks() -> None:
    full = LanguageModel(architecture="causal_lm", base="b", method="full", epochs=1)
    assert next_rung_cpu_s(full, **SIZES, following_weights=100) == pytest.approx(3 * 0.01 * 50 * 200)
    assert next_rung_cpu_s(full, **SIZES, following_weights=200) == pytest.approx(2 * 3 * 0.01 * 50 * 200)
    shown = LanguageModel(architecture="causal_lm", base="b", method="few_shot")
    assert next_rung_cpu_s(shown, **SIZES, following_weights=100) == 0.0
    reflection = {"model": "big", "usd_per_call": 0.01}
    asked = LanguageModel(architecture="causal_lm", base="b", method="prompt", metric_calls=40, reflection=reflection)
    assert next_rung_cpu_s(asked, **SIZES, following_weights=100) == pytest.approx(0.01 * 50 * 40)


def test_it_is_said_while_the_student_below_serves() -> None:
    state = TaskState()
    made = trained("s-1", 1).model_copy(update={"rung": 0, "metrics": {"next_rung_cpu_s": 3600.0}})
    for event in (made, route(1, 2, live="s-1")):
        state = fold(state, event, TASK)
    decision = decide(TASK, state, Counts(1000, 1000))
    usd = TASK.budget.usd_per_cpu_hour
    assert decision.numbers["next_rung_usd"] == usd
    told = f"the next rung, lora of small, would have cost about {usd:.2g} USD to make"
    assert decision.reason == f"student s-1 serves; {told}"
    above = fold(TaskState(), made.model_copy(update={"rung": 1}), TASK)
    above = fold(above, route(1, 2, live="s-1"), TASK)
    assert decide(TASK, above, Counts(1000, 1000)).reason == "student s-1 serves", "there is none above"
