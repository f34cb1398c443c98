"""Objectives on answers: against their closed forms, their numerical gradients, and towards the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.distill.response.correlation import correlation_loss, pearson
from stillhouse.distill.response.decoupled import decoupled_loss
from stillhouse.distill.response.hard_labels import hard_label_loss
from stillhouse.distill.response.logit_standardisation import standardised, standardised_logit_loss
from stillhouse.distill.response.multi_label import binary_loss, multi_label_loss
from stillhouse.distill.response.regression import bounded_score_loss, score_loss
from stillhouse.distill.response.soft_targets import soft_target_loss, soften
from stillhouse.models.port import ModelError
from tests.unit.distill.checks import descended, drawn, gradient_is_right, probabilities

B, L = 5, 4
LOGITS, TEACHER, SOFT = drawn(B, L), drawn(B, L, seed=1), probabilities(B, L, seed=2)
HARD = torch.tensor([0, 3, 1, 1, 2])
SCORES = drawn(B, seed=3)
TRUTH = drawn(B, seed=4)

LOSSES = {
    "soft_targets": lambda z: soft_target_loss(z, SOFT, HARD, 2.0, 0.3),
    "hard_labels": lambda z: hard_label_loss(z, HARD, 0.1),
    "standardised": lambda z: standardised_logit_loss(z, TEACHER, 2.0),
    "dkd": lambda z: decoupled_loss(z, SOFT, HARD, 3.0, 1.0, 8.0),
    "dist": lambda z: correlation_loss(z, SOFT, 2.0, 1.0, 0.5),
    "multi_label": lambda z: multi_label_loss(z, SOFT, SOFT.round(), 2.0, 0.3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_numerical_one(name) -> None:
    assert gradient_is_right(LOSSES[name], LOGITS)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name) -> None:
    assert torch.isfinite(LOSSES[name](LOGITS.bfloat16()))
    assert LOSSES[name](LOGITS.bfloat16()).dtype != torch.bfloat16


@pytest.mark.parametrize(
    "loss",
    [
        lambda: soft_target_loss(LOGITS, SOFT[:, :3], HARD, 2.0, 0.3),
        lambda: standardised_logit_loss(LOGITS, TEACHER[:, :3]),
        lambda: decoupled_loss(LOGITS, SOFT[:, :3], HARD),
        lambda: correlation_loss(LOGITS, SOFT[:, :3]),
        lambda: multi_label_loss(LOGITS, SOFT[:, :3], SOFT.round()),
    ],
)
def test_other_shapes_are_refused_with_the_shapes(loss) -> None:
    with pytest.raises(ModelError, match=r"\[5, 4\].*\[5, 3\].*must be the same\.$"):
        loss()


THREE = torch.ones(3)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: soft_target_loss(LOGITS, SOFT, HARD[:3], 2.0, 0.3),
        lambda: soft_target_loss(LOGITS, SOFT, HARD, 2.0, THREE),
        lambda: soft_target_loss(LOGITS, SOFT, HARD, 2.0, 0.3, THREE),
        lambda: hard_label_loss(LOGITS, HARD, weight=THREE),
        lambda: standardised_logit_loss(LOGITS, TEACHER, weight=THREE),
        lambda: decoupled_loss(LOGITS, SOFT, HARD[:3]),
        lambda: decoupled_loss(LOGITS, SOFT, HARD, beta=THREE),
        lambda: decoupled_loss(LOGITS, SOFT, HARD, weight=THREE),
        lambda: multi_label_loss(LOGITS, SOFT, SOFT.round(), weight=THREE),
        lambda: binary_loss(LOGITS[:, 0], SOFT[:, 0], HARD.clamp(max=1), weight=THREE),
        lambda: score_loss(SCORES, TRUTH, weight=THREE),
        lambda: bounded_score_loss(SCORES, TRUTH, TRUTH, weight=THREE),
    ],
)
def test_what_is_not_one_for_each_row_is_refused_with_the_shapes(loss) -> None:
    with pytest.raises(ModelError, match=r"are \[3\] for rows \[5(, 4)?\]; give one for each row, \[5\]\.$"):
        loss()


def test_alphas_of_labels_are_one_for_each() -> None:
    with pytest.raises(ModelError, match=r"are \[3\] for labels \[5, 4\]; give one for each label, \[4\]\.$"):
        multi_label_loss(LOGITS, SOFT, SOFT.round(), alpha=THREE)
    with pytest.raises(ModelError, match=r"\[5\].*\[4\]"):
        binary_loss(LOGITS[:, 0], SOFT[:, 0], HARD[:4])


def test_one_label_for_each_row_is_asked_for() -> None:
    with pytest.raises(ModelError, match=r"\[5, 4\].*\[3\]"):
        hard_label_loss(LOGITS, HARD[:3])
    with pytest.raises(ModelError, match=r"\[5\].*\[4\]"):
        score_loss(SCORES, TRUTH[:4])
    with pytest.raises(ModelError, match=r"\[5\].*\[4\]"):
        bounded_score_loss(SCORES, SCORES, TRUTH[:4])


def test_smoothing_mixes_with_the_even_distribution() -> None:
    logs = LOGITS.log_softmax(dim=-1).numpy()
    expected = -(0.9 * logs[np.arange(B), HARD] + 0.1 * logs.mean(axis=1))
    assert float(hard_label_loss(LOGITS, HARD, 0.1)) == pytest.approx(expected.mean())
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0])
    weighted = (expected[0] + 2 * expected[2]) / 3
    assert float(hard_label_loss(LOGITS, HARD, 0.1, weight)) == pytest.approx(weighted)


def test_standardised_logits_have_mean_0_and_deviation_1_and_forget_scale_and_offset() -> None:
    z = standardised(LOGITS, 1.0)
    assert z.mean(dim=-1).abs().max() < 1e-9
    assert z.std(dim=-1).numpy() == pytest.approx(np.ones(B), rel=1e-5)
    base = standardised_logit_loss(LOGITS, TEACHER)
    assert float(standardised_logit_loss(3 * LOGITS + 7, 0.5 * TEACHER - 2)) == pytest.approx(float(base), rel=1e-5)
    p, q = (standardised(part, 2.0).softmax(dim=-1) for part in (TEACHER, LOGITS))
    assert float(base) == pytest.approx(4 * float((p * (p / q).log()).sum(dim=-1).mean()), rel=1e-6)


def test_decoupled_is_soft_targets_where_its_parts_weigh_what_they_do_there() -> None:
    """Equation 5 of the paper: KL = TCKD + (1 - p_label) NCKD."""
    temperature = 2.0
    p = soften(SOFT, temperature)[torch.arange(B), HARD]
    whole = soft_target_loss(LOGITS, SOFT, HARD, temperature, alpha=0.0)
    assert float(decoupled_loss(LOGITS, SOFT, HARD, temperature, 1.0, 1 - p)) == pytest.approx(float(whole), rel=1e-6)


def test_decoupled_bears_a_teacher_that_left_everything_else_out() -> None:
    sure = torch.nn.functional.one_hot(HARD, L).double()
    assert torch.isfinite(decoupled_loss(LOGITS, sure, HARD))
    assert gradient_is_right(lambda z: decoupled_loss(z, sure, HARD), LOGITS)


def test_correlation_is_pearsons() -> None:
    said, wanted = LOGITS.softmax(dim=-1).numpy(), SOFT.numpy()
    rows = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(said, wanted, strict=True)])
    columns = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(said.T, wanted.T, strict=True)])
    expected = 2.0 * (1 - rows) + 0.5 * (1 - columns)
    assert float(correlation_loss(LOGITS, SOFT, 1.0, 2.0, 0.5)) == pytest.approx(expected, rel=1e-6)
    assert float(pearson(LOGITS, LOGITS).mean()) == pytest.approx(1.0)


def test_labels_that_are_independent_are_binary_distillations() -> None:
    soft = torch.sigmoid(TEACHER)
    got = multi_label_loss(LOGITS, soft, (TEACHER > 0).long(), 2.0, 0.25)
    p, q = torch.sigmoid(TEACHER / 2), torch.sigmoid(LOGITS / 2)
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    hard = torch.where(TEACHER > 0, -torch.sigmoid(LOGITS).log(), -torch.sigmoid(-LOGITS).log())
    assert float(got) == pytest.approx(float((0.25 * hard + 0.75 * 4 * kl).mean()), rel=1e-6)
    one = binary_loss(LOGITS[:, 0], soft[:, 0], HARD.clamp(max=1), 2.0, 0.25)
    same = multi_label_loss(LOGITS[:, :1], soft[:, :1], HARD.clamp(max=1)[:, None], 2.0, 0.25)
    assert float(one) == float(same)
    with pytest.raises(ModelError, match="between 0 and 1"):
        multi_label_loss(LOGITS, TEACHER, SOFT.round())


def test_binary_is_the_softmax_of_two_labels() -> None:
    """One logit z and a softmax of (0, z) are the same."""
    z, p = LOGITS[:, 0], torch.sigmoid(TEACHER[:, 0])
    two, both = torch.stack([torch.zeros_like(z), z], dim=-1), torch.stack([1 - p, p], dim=-1)
    hard = HARD.clamp(max=1)
    assert float(binary_loss(z, p, hard, 3.0, 0.2)) == pytest.approx(float(soft_target_loss(two, both, hard, 3.0, 0.2)))


def test_scores_are_squared_errors_and_a_bound_spares_who_is_nearer_than_the_teacher() -> None:
    expected = 0.3 * (SCORES - TRUTH) ** 2 + 0.7 * (SCORES - TRUTH / 2) ** 2
    assert float(score_loss(SCORES, TRUTH / 2, TRUTH, 0.3)) == pytest.approx(float(expected.mean()))
    assert gradient_is_right(lambda s: score_loss(s, TRUTH / 2, TRUTH, 0.3), SCORES)
    assert gradient_is_right(lambda s: bounded_score_loss(s, TRUTH + 0.1, TRUTH), SCORES)
    truth, near, far = torch.zeros(1), torch.tensor([0.2]), torch.tensor([0.5])
    assert float(bounded_score_loss(near, far, truth, bound=0.5)) == pytest.approx(0.5 * 0.04)
    assert float(bounded_score_loss(far, near, truth, bound=0.5)) == pytest.approx(0.5 * 0.25 + 0.5 * 0.25)


@pytest.mark.parametrize(
    ("loss", "reaches"),
    [
        (lambda z: soft_target_loss(z, SOFT, HARD, 2.0, 0.0), lambda z: (z.softmax(-1) - SOFT).abs().max()),
        (lambda z: decoupled_loss(z, SOFT, HARD, 2.0), lambda z: (z.softmax(-1) - SOFT).abs().max()),
        (
            lambda z: standardised_logit_loss(z, TEACHER),
            lambda z: (standardised(z, 1.0) - standardised(TEACHER, 1.0)).abs().max(),
        ),
        (lambda z: correlation_loss(z, SOFT), lambda z: 1 - pearson(z.softmax(-1), SOFT).min()),
        (
            lambda z: multi_label_loss(z, SOFT, SOFT.round()),
            lambda z: (torch.sigmoid(z) - SOFT).abs().max(),
        ),
    ],
    ids=["soft_targets", "dkd", "standardised", "dist", "multi_label"],
)
def test_descending_it_leads_to_the_teacher(loss, reaches) -> None:
    assert float(reaches(LOGITS)) > 0.1
    assert float(reaches(descended(loss, LOGITS, steps=400))) < 0.02
