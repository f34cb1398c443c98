"""Objectives on relations among texts: closed forms, gradients, shapes, and what they do not see."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stillhouse.distill.relations.contrastive import Contrast, contrastive_loss
from stillhouse.distill.relations.relational import angle_loss, distance_loss
from stillhouse.distill.relations.similarity_preserving import similarity_loss
from stillhouse.models.port import ModelError
from tests.unit.distill.checks import descended, drawn, gradient_is_right

B = 5
OURS, THEIRS = drawn(B, 3), drawn(B, 7, seed=1)
SAME = drawn(B, 3, seed=2)
OTHERS = ~torch.eye(B, dtype=torch.bool)

LOSSES = {
    "distance": lambda s: distance_loss(s, THEIRS),
    "angle": lambda s: angle_loss(s, THEIRS),
    "similarity": lambda s: similarity_loss(s, THEIRS),
    "contrastive": lambda s: contrastive_loss(s, SAME, OTHERS, texts=100, temperature=0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_numerical_one(name) -> None:
    assert gradient_is_right(LOSSES[name], OURS)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss, similarity_loss])
def test_other_numbers_of_texts_are_refused_with_the_shapes(loss) -> None:
    with pytest.raises(ModelError, match=r"\[5, 3\].*\[4, 7\]"):
        loss(OURS, THEIRS[:4])
    with pytest.raises(ModelError, match="this one has 1"):
        loss(OURS[:1], THEIRS[:1])


def test_a_contrast_refuses_other_shapes_too() -> None:
    with pytest.raises(ModelError, match=r"\[5, 3\].*\[4, 3\]"):
        contrastive_loss(OURS, SAME[:4], OTHERS, texts=9)
    with pytest.raises(ModelError, match=r"width 3; these are \[5, 7\]"):
        Contrast(3, 7, texts=9)(THEIRS, THEIRS)
    with pytest.raises(ModelError, match=r"\[5, 3\].*\[5, 7\]; project both"):
        contrastive_loss(OURS, THEIRS, OTHERS, texts=9)
    with pytest.raises(ModelError, match=r"are \[5, 4\].*give \[5, 5\]"):
        contrastive_loss(OURS, SAME, OTHERS[:, :4], texts=9)
    with pytest.raises(ModelError, match=r"labels are \[3\] for rows \[5, 3\]"):
        Contrast(3, 7, texts=9)(OURS, THEIRS, torch.arange(3))


def huber(a, b):
    d = np.abs(np.asarray(a) - np.asarray(b))
    return float(np.where(d <= 1, 0.5 * d**2, d - 0.5).mean())


def test_distances_are_relative_to_their_mean() -> None:
    def relative(x):
        pairs = [np.linalg.norm(x[i] - x[j]) for i, j in itertools.combinations(range(B), 2)]
        return np.array(pairs) / np.mean(pairs)

    assert float(distance_loss(OURS, THEIRS)) == pytest.approx(huber(relative(OURS.numpy()), relative(THEIRS.numpy())))
    assert float(distance_loss(OURS, 9 * OURS + 4)) == pytest.approx(0, abs=1e-12)


def test_angles_are_those_of_all_triples() -> None:
    def cosines(x):
        found = []
        for i, j, k in itertools.permutations(range(B), 3):
            a, b = x[i] - x[j], x[k] - x[j]
            found.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return found

    assert float(angle_loss(OURS, THEIRS)) == pytest.approx(huber(cosines(OURS.numpy()), cosines(THEIRS.numpy())))
    turn, _ = torch.linalg.qr(drawn(3, 3, seed=5))
    assert float(angle_loss(OURS @ turn * 3, OURS)) == pytest.approx(0, abs=1e-12)


def test_similarities_are_normalised_rows() -> None:
    def rows(x):
        g = x @ x.T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    expected = np.linalg.norm(rows(THEIRS.numpy()) - rows(OURS.numpy())) ** 2 / B**2
    assert float(similarity_loss(OURS, THEIRS)) == pytest.approx(expected)


def test_the_contrast_is_that_of_the_paper() -> None:
    """h = e^s / (e^s + N / M), equation 19; here in its own words, pair by pair."""
    ours, theirs = (x / x.norm(dim=-1, keepdim=True) for x in (OURS, SAME))
    s = np.exp((ours @ theirs.T).numpy() / 0.5)
    h = s / (s + (B - 1) / 100)
    expected = np.mean([-np.log(h[i, i]) - sum(np.log(1 - h[i, j]) for j in range(B) if j != i) for i in range(B)])
    assert float(contrastive_loss(OURS, SAME, OTHERS, texts=100, temperature=0.5)) == pytest.approx(expected)


def test_the_queue_holds_the_newest_and_texts_of_the_same_label_are_no_negatives() -> None:
    torch.manual_seed(0)
    crd = Contrast(3, 7, texts=100, dim=4, queue=8)
    batches = [drawn(B, 7, seed=seed).float() for seed in range(3)]
    labels = torch.arange(B)
    for batch in batches:
        crd(OURS.float(), batch, labels)
    held = {tuple(row.tolist()) for row in crd.queue}
    assert held == {tuple(row.tolist()) for row in torch.cat(batches)[-8:]}
    crd.eval()
    crd(OURS.float(), batches[0], labels)
    assert {tuple(row.tolist()) for row in crd.queue} == held  # asking changes nothing
    alike = torch.zeros(B, dtype=torch.int64)
    alone = Contrast(3, 7, texts=100, dim=4, queue=0)
    own_only = alone(OURS.float(), batches[0], alike)
    none = contrastive_loss(
        alone.student(OURS.float()), alone.teacher(batches[0]), torch.zeros(B, B, dtype=torch.bool), texts=100
    )
    assert float(own_only.detach()) == pytest.approx(float(none.detach()))


def test_the_queue_is_in_the_state_so_that_checkpoints_hold_it() -> None:
    assert {"queue", "queued", "filled"} <= set(Contrast(3, 7, texts=9).state_dict())


@pytest.mark.parametrize("name", ["distance", "angle", "similarity"])
def test_descending_it_brings_the_student_to_the_relations_of_its_teacher(name) -> None:
    start = float(LOSSES[name](OURS))
    assert float(LOSSES[name](descended(LOSSES[name], OURS, steps=400, rate=0.02))) < 0.1 * start


def test_descending_the_contrast_makes_each_text_the_nearest_to_its_own() -> None:
    start, theirs = drawn(B, 8, seed=6), drawn(B, 8, seed=7)

    def nearest(vectors):
        products = torch.nn.functional.normalize(vectors, dim=-1) @ torch.nn.functional.normalize(theirs, dim=-1).T
        return products.argmax(dim=-1).tolist()

    assert nearest(start) != list(range(B))
    learnt = descended(lambda s: contrastive_loss(s, theirs, OTHERS, texts=B), start, steps=400)
    assert nearest(learnt) == list(range(B))
