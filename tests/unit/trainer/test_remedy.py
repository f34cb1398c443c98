"""After a failed gate: which remedy for which condition, within limits, and what the trainer then plans."""

from __future__ import annotations

import pytest

from services.trainer.policy import Counts, decide
from services.trainer.remedy import HARDER, candidate_with, remedy_for
from services.trainer.state import TaskState, fold
from stillhouse.events import Condition, GateFailed
from stillhouse.tasks import StudentCandidate
from tests.unit.trainer.tasks import at, gate_failed, make_task, trained

TASK = make_task()
ENOUGH = Counts(total=1000, new=0)


def failed(*conditions: Condition, student_id: str = "s1", minutes: float = 2) -> GateFailed:
    held = Condition(name="agreement", verdict="passed", floor=0.95, estimate=0.99)
    return gate_failed(student_id, minutes).model_copy(update={"conditions": [*conditions, held]})


def broken(name: str, estimate: float | None = None, floor: float | None = None) -> Condition:
    return Condition(name=name, verdict="failed", estimate=estimate, floor=floor)


WEAK = failed(broken("agreement", 0.93, 0.95))
HOPELESS = failed(broken("agreement", 0.7, 0.95))


def test_lost_recall_of_rare_classes_teaches_their_hard_labels_on_the_same_rung() -> None:
    remedy = remedy_for(TASK, 0, {}, 0, failed(broken("recall of b"), broken("recall gained in c")))
    assert remedy is not None
    assert (remedy.rung, remedy.variants) == (0, 1)
    assert remedy.changes == {"class_alpha": {"b": HARDER, "c": HARDER}}
    assert "b, c" in remedy.why
    # Taught so already: the next rung.
    again = remedy_for(TASK, 0, remedy.changes, 1, failed(broken("recall of b")))
    assert again is not None
    assert (again.rung, again.changes) == (1, {})


def test_a_class_that_the_task_does_not_have_changes_nothing() -> None:
    remedy = remedy_for(TASK, 0, {}, 0, failed(broken("recall of gone")))
    assert remedy is not None
    assert remedy.rung == 1


def test_weak_students_with_lost_classes_climb_first() -> None:
    remedy = remedy_for(TASK, 0, {}, 0, failed(broken("recall of b"), broken("coverage", 0.1, 0.2)))
    assert remedy is not None
    assert (remedy.rung, remedy.changes) == (1, {})


def test_what_costs_too_much_is_made_smaller() -> None:
    for rung, changes in ((0, {"dim": 64}), (1, {"layers": 2})):
        remedy = remedy_for(TASK, rung, {}, 0, failed(broken("pays", -3.0, 0.0)))
        assert remedy is not None
        assert (remedy.rung, remedy.changes, remedy.variants) == (rung, changes, 1)
    # Two layers are the fewest; then they are made narrower, and there is no rung above.
    narrower = remedy_for(TASK, 1, {"layers": 2}, 1, failed(broken("pays")))
    assert narrower is not None
    assert narrower.changes == {"layers": 2, "width": 0.5}
    assert remedy_for(TASK, 1, {"layers": 2, "width": 0.5}, 1, failed(broken("pays"))) is None
    both = remedy_for(TASK, 0, {}, 0, failed(broken("pays"), broken("coverage", 0.15, 0.2)))
    assert both is not None
    assert both.rung == 1


def test_after_the_last_rung_a_near_miss_is_made_larger_and_a_wide_one_waits() -> None:
    remedy = remedy_for(TASK, 1, {}, 0, WEAK)
    assert remedy is not None
    assert (remedy.rung, remedy.changes) == (1, {"layers": 4})
    assert remedy_for(TASK, 1, {"layers": 6}, 1, WEAK) is None  # six are the most
    assert remedy_for(TASK, 1, {}, 0, HOPELESS) is None
    assert remedy_for(TASK, 1, {}, 0, failed(broken("coverage", 0.05, 0.2))) is None
    assert remedy_for(TASK, 1, {}, 0, failed(broken("coverage", 0.15, 0.2))) is not None


def test_vectors_of_somebody_else_have_one_width() -> None:
    given = StudentCandidate(architecture="static_embeddings", vectors="vectors")
    task = TASK.model_copy(update={"students": (given,)})
    assert remedy_for(task, 0, {}, 0, WEAK) is None
    assert remedy_for(task, 0, {}, 0, failed(broken("pays", -3.0, 0.0))) is None


def test_a_verdict_that_stayed_undecided_is_mended_by_what_stayed_open() -> None:
    open_ = Condition(name="agreement", verdict="undecided", estimate=0.95, floor=0.95)
    event = WEAK.model_copy(update={"verdict": "undecided", "conditions": [open_]})
    remedy = remedy_for(TASK, 1, {}, 0, event)
    assert remedy is not None
    assert remedy.changes == {"layers": 4}


def test_static_students_grow_to_the_encoder_s_width_and_narrow_ones_get_their_width_back_first() -> None:
    task = make_task(students=({"architecture": "static_embeddings"}, {"architecture": "cut_encoder", "width": 0.5}))
    alone = make_task(students=({"architecture": "text_cnn"},))
    assert remedy_for(task, 0, {}, 0, failed(broken("pays"))).changes == {"dim": 128}
    assert remedy_for(alone, 0, {}, 0, WEAK).changes == {"dim": 384}
    assert remedy_for(alone, 0, {"dim": 384}, 1, WEAK) is None
    assert remedy_for(task, 1, {}, 0, WEAK).changes == {"width": 1.0}
    assert remedy_for(task, 1, {"width": 1.0}, 1, WEAK).changes == {"width": 1.0, "layers": 4}


def test_terms_on_hidden_layers_bind_a_student_to_its_layers_and_heads() -> None:
    layer = "transformer.encoder.layer.2"
    named = {"architecture": "cut_encoder", "layers": 3, "distill": [{"kind": "hidden_mse", "student": layer}]}
    mapped = named | {"learn_layers": 3, "distill": [{"kind": "minilm", "layers": "uniform"}]}
    tasks = [make_task(students=(student,)) for student in (named, mapped)]
    assert remedy_for(tasks[0], 0, {}, 0, WEAK) is None  # of four layers the third would not learn
    assert remedy_for(tasks[0], 0, {}, 0, failed(broken("pays"))).changes == {"width": 0.5}
    assert remedy_for(tasks[1], 0, {}, 0, WEAK).changes == {"layers": 4}
    assert remedy_for(tasks[1], 0, {}, 0, failed(broken("pays"))) is None  # neither fewer layers than learn nor heads


@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_rung_has_only_so_many_variants(most) -> None:
    task = make_task(students=({"architecture": "hashed_ngrams", "dim": 32, "variants": most},))
    changes, variants = {}, 0
    dims = []
    while (remedy := remedy_for(task, 0, changes, variants, WEAK)) is not None:
        changes, variants = remedy.changes, remedy.variants
        dims.append(candidate_with(task.students[0], changes).dim)
    assert dims == [64, 128][:most]


def test_verdicts_without_conditions_climb_and_then_wait_as_ever() -> None:
    assert remedy_for(TASK, 0, {}, 0, gate_failed("s1", 2)).rung == 1
    assert remedy_for(TASK, 1, {}, 0, gate_failed("s1", 2)) is None


def test_the_trainer_plans_the_remedy_and_starts_from_the_bottom_after_it() -> None:
    def folded(*events, state: TaskState) -> TaskState:
        for event in events:
            state = fold(state, event, TASK)
        return state

    state = folded(trained("s1", 1), failed(broken("recall of b")), state=TaskState())
    decision = decide(TASK, state, ENOUGH)
    assert decision.plan is not None
    assert (decision.plan.rung, decision.plan.changes) == (0, {"class_alpha": {"b": HARDER}})
    assert "recall of b was lost" in decision.reason
    second = trained("s2", 3).model_copy(update={"changes": decision.plan.changes})
    state = folded(second, failed(broken("recall of b"), student_id="s2", minutes=4), state=state)
    assert (state.rung, state.changes, state.variants) == (1, {}, 0)
    third = trained("s3", 5, rung=1)
    state = folded(third, failed(broken("agreement", 0.94, 0.95), student_id="s3", minutes=6), state=state)
    plan = decide(TASK, state, ENOUGH).plan
    assert plan is not None
    assert (plan.rung, plan.changes) == (1, {"layers": 4})
    fourth = trained("s4", 7, rung=1).model_copy(update={"changes": plan.changes})
    state = folded(fourth, failed(broken("agreement", 0.94, 0.95), student_id="s4", minutes=8), state=state)
    plan = decide(TASK, state, ENOUGH).plan
    assert plan is not None
    assert plan.changes == {"layers": 5}
    fifth = trained("s5", 9, rung=1).model_copy(update={"changes": plan.changes})
    state = folded(fifth, failed(broken("agreement", 0.94, 0.95), student_id="s5", minutes=10), state=state)
    assert decide(TASK, state, ENOUGH).plan is None
    assert (state.rung, state.changes, state.since) == (0, {}, at(10))


def test_a_student_with_a_recipe_of_its_own_has_no_alpha_to_change() -> None:
    """It can be resized, which keeps its recipe; where rare classes were lost the next rung is tried."""
    recipe = StudentCandidate(architecture="hashed_ngrams", distill=({"kind": "soft_targets"},))
    assert candidate_with(recipe, {"dim": 32}).distill == recipe.distill
    task = TASK.model_copy(update={"students": (recipe, TASK.students[1])})
    remedy = remedy_for(task, 0, {}, 0, failed(broken("recall of b")))
    assert remedy is not None
    assert (remedy.rung, remedy.changes) == (1, {})


def test_changes_are_held_to_what_a_task_file_may_say() -> None:
    candidate = StudentCandidate(architecture="hashed_ngrams", dim=16)
    assert candidate_with(candidate, {"dim": 32}).dim == 32
    assert candidate_with(candidate, {}) == candidate
    with pytest.raises(ValueError, match="layers"):
        candidate_with(candidate, {"layers": 7})
