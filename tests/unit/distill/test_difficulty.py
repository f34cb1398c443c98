"""How hard a text is: the loss of a model that learnt the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.distill.data import hard_targets, soft_targets
from stillhouse.distill.difficulty import losses_of_halves, losses_of_texts
from stillhouse.models.port import ModelError
from tests.unit.distill.toy import LABELS, texts


def test_texts_that_contradict_all_others_are_the_hardest_and_the_same_each_time() -> None:
    rows = texts(200)
    hard = torch.from_numpy(hard_targets(rows, LABELS))
    wrong = torch.arange(0, 200, 20)
    hard[wrong] = (hard[wrong] + 1) % 3
    soft = torch.from_numpy(soft_targets(rows, LABELS))
    soft[wrong] = torch.eye(3)[hard[wrong]]
    told = [row.text for row in rows]
    losses = losses_of_texts(told, soft, hard, seed=0)
    assert sorted(np.argsort(losses)[-10:].tolist()) == wrong.tolist()
    before = torch.random.get_rng_state()
    assert (losses_of_texts(told, soft, hard, seed=0) == losses).all()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not (losses_of_texts(told, soft, hard, seed=1) == losses).all()


def test_rows_that_are_not_of_the_same_texts_are_refused() -> None:
    features = [np.array([1]), np.array([2]), np.array([3])]
    with pytest.raises(ModelError, match=r"3 texts, probabilities \[2, 2\] and labels \[3\]: a curriculum by loss"):
        losses_of_halves(features, torch.eye(2), torch.zeros(3, dtype=torch.int64), buckets=8, seed=0)
    with pytest.raises(ModelError, match="1 texts"):
        losses_of_halves(features[:1], torch.eye(1), torch.zeros(1, dtype=torch.int64), buckets=8, seed=0)
