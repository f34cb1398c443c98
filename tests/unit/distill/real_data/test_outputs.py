"""Answers that are no single label, on real data: a yes or no, several labels, a score."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.response.multi_label import binary_loss, multi_label_loss
from stillhouse.distill.response.regression import bounded_score_loss, score_loss
from tests.unit.distill.real_data.digits import HELD, SEEDS, TAUGHT, Net, learn, pixels, said, surely_more, teacher


def _linear(width: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, 1)


@cache
def patients() -> tuple[Tensor, Tensor, Tensor]:
    """569 biopsies, standardised [569, 30], whether benign [569], and a forest's probability of it (of 300)."""
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] - x.mean(axis=0)) / x.std(axis=0), y[order]
    forest = RandomForestClassifier(40, random_state=0).fit(x[:300], y[:300])
    return tuple(torch.from_numpy(part.astype(np.float32)) for part in (x, y, forest.predict_proba(x)[:, 1]))


def test_a_student_of_one_question_answers_as_a_forest_does() -> None:
    x, _, soft = patients()
    taught, held = slice(300, 340), slice(369, 569)
    yes = soft.round()
    after, before = [], []
    for seed in SEEDS:
        student = _linear(30, seed)
        for found in (before, after):
            with torch.no_grad():
                found.append(float(((student(x[held])[:, 0] > 0) == (soft[held] > 0.5)).double().mean()))
            learn(
                student,
                lambda at, net=student: binary_loss(
                    net(x[taught][at])[:, 0], soft[taught][at], yes[taught][at], 2.0, 0.2
                ),
                40,
                seed=seed,
                size=20,
                steps=60,
                rate=0.05,
            )
    assert min(after) > 0.9
    assert surely_more(after, before) > 0.1


def attributes(logits: Tensor) -> Tensor:
    """The teacher's probabilities that a digit is even, above 4, and written with a closed loop, [n, 3]."""
    shares = logits.softmax(dim=-1)
    sets = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (0, 6, 8, 9))
    return torch.stack([shares[:, list(some)].sum(dim=1) for some in sets], dim=1).clamp(0.0, 1.0)


def test_a_student_of_several_labels_answers_each_of_them() -> None:
    """By probabilities, by labels, or both; that one teaches more than the other is not shown on 100 digits."""
    soft, wanted = attributes(said(teacher(), TAUGHT).logits), attributes(said(teacher(), HELD).logits).round()
    x = pixels()[TAUGHT]

    def right(student: Net) -> float:
        return float(((said(student).logits > 0) == wanted.bool()).double().mean())

    before = [right(Net(seed, labels=3)) for seed in SEEDS]
    for alpha in (0.0, 0.3, 1.0):
        after = []
        for seed in SEEDS:
            student = Net(seed, labels=3)
            learn(
                student,
                lambda at, net=student, alpha=alpha: multi_label_loss(
                    net(x[at]).logits, soft[at], soft[at].round(), 4.0, alpha
                ),
                seed=seed,
            )
            after.append(right(student))
        assert surely_more(after, before) > 0.25
        assert min(after) > 0.8


@cache
def progress() -> tuple[Tensor, Tensor, Tensor]:
    """442 patients [442, 10], their disease's progress, and a forest's score of it (of 240); standardised."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / x.std(axis=0), ((y - y.mean()) / y.std())[order]
    forest = RandomForestRegressor(40, min_samples_leaf=3, random_state=0).fit(x[:240], y[:240])
    return tuple(torch.from_numpy(part.astype(np.float32)) for part in (x, y, forest.predict(x)))


def test_a_student_of_scores_comes_near_to_a_forest() -> None:
    """It explains most of the teacher's spread on patients that neither saw; without learning it explains none."""
    x, truth, score = progress()
    taught, held = slice(240, 300), slice(312, 442)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "score": lambda ours, at: score_loss(ours, score[taught][at], truth[taught][at], 0.2),
        "bounded": lambda ours, at: bounded_score_loss(ours, score[taught][at], truth[taught][at]),
    }
    for loss_of in losses.values():
        after, before = [], []
        for seed in SEEDS:
            student = _linear(10, seed)
            for found in (before, after):
                with torch.no_grad():
                    apart = functional.mse_loss(student(x[held])[:, 0], score[held])
                found.append(float(1.0 - apart / score[held].var()))
                learn(
                    student,
                    lambda at, net=student, loss_of=loss_of: loss_of(net(x[taught][at])[:, 0], at),
                    60,
                    seed=seed,
                    size=30,
                    steps=80,
                    rate=0.05,
                )
        assert min(after) > 0.3
        assert surely_more(after, before) > 0.5
