"""The objectives give what sentence-transformers' losses give; its values are kept, with the program that made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stillhouse.distill.rerankers.lambda_loss import lambda_loss
from stillhouse.distill.rerankers.listwise_kl import listwise_kl
from stillhouse.distill.rerankers.margin_mse import margin_mse
from stillhouse.distill.rerankers.score_mse import score_mse
from stillhouse.distill.rerankers.scores import standardise

KEPT = json.loads((Path(__file__).parent / "reference" / "sentence_transformers_losses.json").read_text("utf-8"))
STUDENT, TEACHER = torch.tensor(KEPT["student"]), torch.tensor(KEPT["teacher"])
LOSSES = KEPT["losses"]


def test_margin_mse() -> None:
    first = torch.zeros_like(TEACHER)
    first[:, 0] = 1.0  # relevant; every other document is a negative
    assert float(margin_mse(STUDENT, TEACHER, relevance=first)) == pytest.approx(LOSSES["margin_mse"], rel=1e-5)


def test_listwise_kl_is_list_net_less_the_teachers_entropy() -> None:
    shares = standardise(TEACHER).softmax(dim=1)
    entropy = float(-(shares * shares.log()).sum(dim=1).mean())
    assert float(listwise_kl(STUDENT, TEACHER)) == pytest.approx(LOSSES["list_net"] - entropy, rel=1e-5)


def test_lambda_loss_sums_over_a_lists_pairs_what_is_averaged_there() -> None:
    documents = TEACHER.shape[1]
    pairs = documents * (documents - 1) / 2  # no two documents have one score
    assert float(lambda_loss(STUDENT, TEACHER)) / pairs == pytest.approx(LOSSES["lambda_rank"], rel=1e-4)


def test_score_mse_is_mse_less_what_a_constant_does() -> None:
    constant = float(STUDENT.mean(dim=1).square().mean())  # it ranks nothing, and is left out here
    assert float(score_mse(STUDENT, TEACHER)) + constant == pytest.approx(LOSSES["mse"], rel=1e-5)
