"""The distillation loss against its closed form in float64, and its gradient against the paper's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.distill.response.soft_targets import soft_target_loss, soften


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.fixture
def case():
    random = np.random.default_rng(7)
    return random.normal(size=(5, 4)) * 3, softmax(random.normal(size=(5, 4)) * 2), np.array([0, 3, 1, 1, 2])


def closed_form(logits, soft, hard, temperature, alpha):
    hard_loss = -np.log(softmax(logits)[np.arange(len(hard)), hard])
    teacher = soft ** (1 / temperature)
    teacher /= teacher.sum(axis=1, keepdims=True)
    ratio = np.log(np.where(teacher > 0, teacher, 1)) - np.log(softmax(logits / temperature))
    return alpha * hard_loss + (1 - alpha) * temperature**2 * (teacher * ratio).sum(axis=1)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (2.0, 0.2), (4.0, 1.0)])
def test_it_equals_the_closed_form(case, temperature, alpha) -> None:
    logits, soft, hard = case
    soft[0] = [0, 0, 1, 0]  # a teacher that left everything else out
    tensors = (torch.tensor(logits), torch.tensor(soft), torch.tensor(hard))
    expected = closed_form(logits, soft, hard, temperature, alpha)
    assert float(soft_target_loss(*tensors, temperature, alpha)) == pytest.approx(expected.mean(), rel=1e-5)
    weight = np.array([1.0, 2.0, 0.0, 1.0, 3.0])
    weighted = float(soft_target_loss(*tensors, temperature, alpha, torch.tensor(weight)))
    assert weighted == pytest.approx((expected * weight).sum() / weight.sum(), rel=1e-5)


def test_softening_probabilities_is_softening_their_logits(case) -> None:
    logits = case[0]
    softened = soften(torch.tensor(softmax(logits)), 3.0).numpy()
    assert softened == pytest.approx(softmax(logits / 3.0), abs=1e-6)


def test_the_gradient_is_the_difference_of_the_softened_probabilities_times_t(case) -> None:
    logits, soft, hard = case
    z = torch.tensor(logits, requires_grad=True)
    soft_target_loss(z, torch.tensor(soft), torch.tensor(hard), 2.0, 0.0).backward()
    teacher = soft**0.5 / (soft**0.5).sum(axis=1, keepdims=True)
    assert z.grad is not None
    assert z.grad.numpy() == pytest.approx(2.0 * (softmax(logits / 2.0) - teacher) / len(hard), abs=1e-6)


def test_a_step_against_the_gradient_brings_the_student_to_the_teacher(case) -> None:
    logits, soft, hard = case
    z = torch.tensor(logits, requires_grad=True)
    for _ in range(500):
        z.grad = None
        soft_target_loss(z, torch.tensor(soft), torch.tensor(hard), 2.0, 0.0).backward()
        with torch.no_grad():
            z -= 1.0 * z.grad
    assert softmax(z.detach().numpy()) == pytest.approx(soft, abs=0.01)


def test_it_is_computed_in_float32_whatever_the_logits_are(case) -> None:
    logits, soft, hard = (torch.tensor(part) for part in case)
    low = soft_target_loss(logits.bfloat16(), soft, hard, 2.0, 0.2)
    assert low.dtype == torch.float32
    assert float(low) == pytest.approx(float(soft_target_loss(logits.bfloat16().float(), soft, hard, 2.0, 0.2)))


def test_each_row_may_have_its_own_weight_of_hard_labels(case) -> None:
    logits, soft, hard = case
    tensors = (torch.tensor(logits), torch.tensor(soft), torch.tensor(hard))
    alphas = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    expected = closed_form(logits, soft, hard, 2.0, alphas)
    assert float(soft_target_loss(*tensors, 2.0, torch.tensor(alphas))) == pytest.approx(expected.mean(), rel=1e-5)
    same = soft_target_loss(*tensors, 2.0, torch.full((5,), 0.3, dtype=torch.float64))
    assert float(same) == pytest.approx(float(soft_target_loss(*tensors, 2.0, 0.3)), rel=1e-6)
