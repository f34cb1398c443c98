"""The objectives of rerankers against closed forms in numpy, their gradients, shapes, and that they teach."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from stillhouse.distill.rerankers.lambda_loss import lambda_loss
from stillhouse.distill.rerankers.listwise_kl import listwise_kl
from stillhouse.distill.rerankers.margin_mse import margin_mse
from stillhouse.distill.rerankers.objective import rerank_loss
from stillhouse.distill.rerankers.relevance import relevance_loss
from stillhouse.distill.rerankers.score_mse import score_mse
from stillhouse.distill.rerankers.scores import standardise
from stillhouse.models.port import ModelError

OF_TEACHER = {
    "supervised_mse": score_mse,
    "margin_mse": margin_mse,
    "listwise_kl": listwise_kl,
    "lambda_loss": lambda_loss,
}
ALL = OF_TEACHER | {"relevance": relevance_loss}


@pytest.fixture
def case():
    random = np.random.default_rng(3)
    return random.normal(size=(3, 5)), 4 * random.normal(size=(3, 5)) + 7


def z(scores):
    return (scores - scores.mean()) / scores.std()


def softmax(values):
    e = np.exp(values - values.max())
    return e / e.sum()


def mse_of(s, t):
    return np.mean((s - s.mean() - z(t)) ** 2)


def margins_of(s, t):
    pairs = [(i, j) for i in range(len(s)) for j in range(i + 1, len(s))]
    return np.mean([((s[i] - s[j]) - (z(t)[i] - z(t)[j])) ** 2 for i, j in pairs])


def kl_of(s, t, temperature=0.5):
    p, q = softmax(z(t) / temperature), softmax(s / temperature)
    return temperature**2 * np.sum(p * (np.log(p) - np.log(q)))


def lambda_of(s, t):
    gains = 2.0 ** (3 * (t - t.min()) / (t.max() - t.min())) - 1
    rank = {int(place): number for number, place in enumerate(np.argsort(-s, kind="stable"), start=1)}
    best = sum(gain / math.log2(n + 1) for n, gain in enumerate(sorted(gains, reverse=True), start=1))
    total = 0.0
    for i, j in permutations(range(len(s)), 2):
        if gains[i] > gains[j]:
            swap = abs(1 / math.log2(rank[i] + 1) - 1 / math.log2(rank[j] + 1))
            total += (gains[i] - gains[j]) * swap * math.log2(1 + math.exp(-(s[i] - s[j])))
    return total / best


@pytest.mark.parametrize(
    ("loss", "closed_form"),
    [
        (score_mse, mse_of),
        (margin_mse, margins_of),
        (lambda s, t: listwise_kl(s, t, temperature=0.5), kl_of),
        (lambda_loss, lambda_of),
    ],
    ids=list(OF_TEACHER),
)
def test_it_equals_the_closed_form(case, loss, closed_form) -> None:
    student, teacher = case
    expected = np.mean([closed_form(s, t) for s, t in zip(student, teacher, strict=True)])
    assert float(loss(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(expected, rel=1e-6)


def test_relevance_is_the_cross_entropy_of_gains_where_anything_is_relevant(case) -> None:
    student, grades = case[0], np.array([[2.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
    logs = [np.log(softmax(row)) for row in student]
    expected = (-(3 / 4 * logs[0][0] + 1 / 4 * logs[0][3]) - logs[2][1]) / 2
    assert float(relevance_loss(torch.tensor(student), torch.tensor(grades))) == pytest.approx(expected)
    assert float(relevance_loss(torch.tensor(student), torch.zeros(3, 5))) == 0.0


def test_margins_by_relevance_are_between_a_document_and_a_less_relevant_one(case) -> None:
    student, teacher = case[0][:1], case[1][:1]
    grades = np.array([[0.0, 2, 0, 1, 1]])
    pairs = [(1, 0), (1, 2), (1, 3), (1, 4), (3, 0), (3, 2), (4, 0), (4, 2)]
    s, t = student[0], z(teacher[0])
    expected = np.mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs])
    found = margin_mse(torch.tensor(student), torch.tensor(teacher), relevance=torch.tensor(grades))
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ALL.values(), ids=list(ALL))
def test_gradients_are_those_of_the_value(case, loss) -> None:
    student, other = torch.tensor(case[0], requires_grad=True), torch.tensor(case[1])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    assert torch.autograd.gradcheck(lambda s: loss(s, other, mask), (student,))


@pytest.mark.parametrize("loss", ALL.values(), ids=list(ALL))
def test_padding_changes_nothing(case, loss) -> None:
    student, other = torch.tensor(case[0][:, :3]), torch.tensor(case[1][:, :3])
    wide, beside = torch.full((3, 5), 99.0, dtype=torch.float64), torch.full((3, 5), -7.0, dtype=torch.float64)
    wide[:, :3], beside[:, :3] = student, other
    mask = torch.zeros(3, 5).bool()
    mask[:, :3] = True
    assert float(loss(wide, beside, mask)) == pytest.approx(float(loss(student, other)))


@pytest.mark.parametrize("loss", ALL.values(), ids=list(ALL))
def test_shapes_that_do_not_fit_are_refused_with_the_shapes(loss) -> None:
    with pytest.raises(ModelError, match=r"student's is \[2, 3\], .* \[2, 4\]"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ModelError, match=r"student's is \[3\]"):
        loss(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ModelError, match=r"mask's shape \[3\] is not the scores' \[2, 3\]"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3))


def test_standardised_lists_have_mean_0_and_deviation_1_and_equal_scores_say_nothing(case) -> None:
    found = standardise(torch.tensor(case[1])).numpy()
    assert found.mean(axis=1) == pytest.approx(np.zeros(3), abs=1e-12)
    assert found.std(axis=1) == pytest.approx(np.ones(3))
    assert standardise(torch.full((1, 4), 3.3)).tolist() == [[0.0] * 4]


@pytest.mark.parametrize("name", OF_TEACHER)
def test_a_linear_student_learns_the_teachers_order(name) -> None:
    """Lists of eight documents with six features, of which the teacher's score is a linear function with noise."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, 6, generator=random)
    teacher = features @ torch.tensor([2.0, -1.0, 0.5, 0.0, 0.0, 1.0]) + 0.1 * torch.randn(40, 8, generator=random)
    weights = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)

    def in_order(lists) -> float:
        said = features[lists] @ weights.detach()
        pairs = (said.unsqueeze(2) - said.unsqueeze(1)) * (teacher[lists].unsqueeze(2) - teacher[lists].unsqueeze(1))
        return float((pairs > 0).sum() / (8 * 7 * len(teacher[lists])))

    assert in_order(slice(30, 40)) == 0.0
    for _ in range(120):
        optimizer.zero_grad()
        rerank_loss(features[:30] @ weights, teacher[:30], None, objective=name, alpha=0.0).backward()
        optimizer.step()
    assert in_order(slice(30, 40)) > 0.93


def test_the_blend_weighs_the_two_sides_and_one_that_is_missing_leaves_the_other_all(case) -> None:
    student, teacher = torch.tensor(case[0]), torch.tensor(case[1])
    grades = torch.tensor([[1.0, 0, 0, 0, 0]] * 3, dtype=torch.float64)
    own, judged = float(score_mse(student, teacher)), float(relevance_loss(student, grades))
    both = rerank_loss(student, teacher, grades, objective="supervised_mse", alpha=0.3)
    assert float(both) == pytest.approx(0.3 * judged + 0.7 * own)
    assert float(rerank_loss(student, teacher, None, objective="supervised_mse", alpha=0.3)) == pytest.approx(own)
    assert float(rerank_loss(student, None, grades, objective="supervised_mse", alpha=0.3)) == pytest.approx(judged)
    with pytest.raises(ModelError, match="has neither"):
        rerank_loss(student, None, None, objective="supervised_mse", alpha=0.3)
