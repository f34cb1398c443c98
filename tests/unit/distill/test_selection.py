from __future__ import annotations

import numpy as np
import pytest

from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.selection import badge, certainty, k_centre, least_sure, margins
from tests.unit.distill.schemes.lessons import BAGS, HARD, SOFT, Net, agreement, lesson

UNSURE = np.array([[0.5, 0.49, 0.01], [0.98, 0.01, 0.01], [0.34, 0.33, 0.33]])


def test_margin_and_entropy() -> None:
    assert margins(UNSURE) == pytest.approx([0.01, 0.97, 0.01])
    assert certainty(np.array([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx([-np.log(2), 0.0])
    assert least_sure(certainty(UNSURE), 2).tolist() == [2, 0]


def test_k_centre_takes_the_farthest_in_turn() -> None:
    line = np.array([[0.0], [1.0], [5.0], [10.0]])
    assert k_centre(line, 2, known=np.array([[0.0]])).tolist() == [3, 2]
    assert k_centre(line, 4).tolist()[0] == 3  # the farthest from the mean, 4
    assert sorted(k_centre(line, 4).tolist()) == [0, 1, 2, 3]


def test_its_cover_is_at_most_twice_the_best() -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(9, 2))

    def radius(chosen) -> float:
        return float(np.linalg.norm(points[:, None] - points[list(chosen)][None], axis=2).min(axis=1).max())

    from itertools import combinations

    best = min(radius(chosen) for chosen in combinations(range(9), 3))
    assert radius(k_centre(points, 3)) <= 2 * best


def test_badge_draws_from_large_and_unlike_gradients() -> None:
    sure, unsure = [0.999, 0.001], [0.55, 0.45]
    vectors = np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5)
    said = np.array([unsure] * 10)
    for seed in range(5):
        first, second = badge(said, vectors, 2, seed)
        assert {first // 5, second // 5} == {0, 1}  # one of each kind
    said, vectors = np.array([sure] * 90 + [unsure] * 10), np.array([[1.0, 0.0]] * 95 + [[0.0, 1.0]] * 5)
    assert badge(said, vectors, 1, 0).tolist() == [90]
    assert len(set(badge(said, vectors, 100, 0).tolist())) == 100
    assert badge(said, vectors, 7, 3).tolist() == badge(said, vectors, 7, 3).tolist()


def test_its_distances_are_those_of_the_gradients() -> None:
    random = np.random.default_rng(0)
    said, vectors = random.dirichlet([1.0] * 3, 6), random.normal(size=(6, 4))
    errors = said - np.eye(3)[said.argmax(1)]
    gradients = np.einsum("nl,nw->nlw", errors, vectors).reshape(6, -1)
    assert badge(said, vectors, 1, 0)[0] == np.linalg.norm(gradients, axis=1).argmax()


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: margins(np.ones((3, 1))), r"\(3, 1\)"),
        (lambda: least_sure(np.zeros(3), 4), "4 of 3"),
        (lambda: k_centre(np.zeros((3, 2)), 1, np.zeros((1, 5))), r"\(2,\).*\(5,\)"),
        (lambda: badge(UNSURE, np.zeros((2, 4)), 1, 0), "3 texts have probabilities and 2"),
    ],
)
def test_bad_input_is_refused(call, why) -> None:
    with pytest.raises(ValueError, match=why):
        call()


def test_what_the_student_is_unsure_of_teaches_more_than_what_it_knows() -> None:
    """From 24 texts, 24 more are asked for: those it is least and those it is most sure of, over three starts."""
    gained = {"least": 0.0, "most": 0.0}
    for seed in range(3):
        student = Net(seed)
        known = np.random.default_rng(seed).permutation(len(HARD))[:24]
        direct(student, of(known))
        pool = np.setdiff1d(np.arange(len(HARD)), known)
        sureness = margins(of(pool).probabilities(student).numpy())
        for how, places in (("least", least_sure(sureness, 24)), ("most", least_sure(-sureness, 24))):
            taught = Net(seed)
            direct(taught, of(np.concatenate([known, pool[places]])))
            gained[how] += agreement(taught) - agreement(student)
    assert gained["least"] > gained["most"]


def of(places: np.ndarray):
    """The toy lesson on the texts at `places` alone."""
    bags = BAGS[places]
    return lesson(
        says=lambda module, at: module(bags[at]), hard=HARD[places], soft=SOFT[places], epochs=15, batch_size=8
    )
