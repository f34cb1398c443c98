"""Objectives on hidden layers: closed forms, gradients, shapes, masks, and which layer teaches which."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stillhouse.distill.features.attention_transfer import activation_map, attention_transfer_loss
from stillhouse.distill.features.capture import capture
from stillhouse.distill.features.hidden_states import hidden_cosine, hidden_mse
from stillhouse.distill.features.layer_map import last, linear_cka, searched, uniform
from stillhouse.distill.features.projection import Projection
from stillhouse.distill.features.self_attention import attention_loss, relation_loss, relations
from stillhouse.models.port import ModelError
from tests.unit.distill.checks import descended, drawn, gradient_is_right, probabilities

B, N, WIDTH = 3, 4, 6
OURS, THEIRS = drawn(B, N, WIDTH), drawn(B, N, WIDTH, seed=1)
WIDER = drawn(B, N, 2 * WIDTH, seed=2)
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
MAPS, THEIR_MAPS = probabilities(B, 2, N, N, seed=3), probabilities(B, 2, N, N, seed=4)

LOSSES = {
    "mse": lambda s: hidden_mse(s, THEIRS, MASK),
    "cosine": lambda s: hidden_cosine(s, THEIRS, MASK),
    "attention_transfer": lambda s: attention_transfer_loss(s, WIDER, MASK),
    "relations": lambda s: relation_loss(s, WIDER, 2, MASK),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_numerical_one(name) -> None:
    assert gradient_is_right(LOSSES[name], OURS)


def test_the_gradient_of_attention_is_the_numerical_one() -> None:
    assert gradient_is_right(lambda z: attention_loss(z.softmax(dim=-1), THEIR_MAPS, MASK), drawn(B, 2, N, N))


@pytest.mark.parametrize("name", LOSSES)
def test_padding_counts_for_nothing(name) -> None:
    other = OURS.clone()
    other[MASK == 0] = 99.0
    assert float(LOSSES[name](other)) == pytest.approx(float(LOSSES[name](OURS)), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_descending_it_makes_it_small(name) -> None:
    start = float(LOSSES[name](OURS))
    assert float(LOSSES[name](descended(LOSSES[name], OURS, steps=300))) < 0.05 * start


def test_hidden_states_are_compared_token_by_token() -> None:
    real = MASK.bool()
    assert float(hidden_mse(OURS, THEIRS, MASK)) == pytest.approx(0.5 * float((OURS - THEIRS)[real].pow(2).mean()))
    cosines = (OURS * THEIRS).sum(-1) / (OURS.norm(dim=-1) * THEIRS.norm(dim=-1))
    assert float(hidden_cosine(OURS, THEIRS, MASK)) == pytest.approx(1 - float(cosines[real].mean()))
    assert float(hidden_mse(OURS[:, 0], THEIRS[:, 0])) == pytest.approx(
        0.5 * float((OURS[:, 0] - THEIRS[:, 0]).pow(2).mean())
    )


def test_activation_maps_are_squares_of_length_1() -> None:
    squares = OURS.pow(2).sum(dim=-1) * MASK
    expected = squares / squares.norm(dim=-1, keepdim=True)
    assert activation_map(OURS, MASK).numpy() == pytest.approx(expected.numpy())
    difference = expected - activation_map(WIDER, MASK)
    assert float(attention_transfer_loss(OURS, WIDER, MASK)) == pytest.approx(
        float(difference.pow(2).sum(dim=-1).mean())
    )


def test_attention_is_a_divergence_of_rows() -> None:
    rows = (THEIR_MAPS * (THEIR_MAPS / MAPS).log()).sum(dim=-1).mean(dim=1)
    assert float(attention_loss(MAPS, THEIR_MAPS)) == pytest.approx(float(rows.mean()))
    assert float(attention_loss(MAPS, THEIR_MAPS, MASK)) == pytest.approx(float(rows[MASK.bool()].mean()))


def test_relations_are_scaled_products_of_heads() -> None:
    got = relations(OURS, 2).exp()
    first = OURS[0, :, : WIDTH // 2]
    expected = (first @ first.T / math.sqrt(WIDTH // 2)).softmax(dim=-1)
    assert got[0, 0].numpy() == pytest.approx(expected.numpy())
    p, q = relations(WIDER, 2).exp(), got
    assert float(relation_loss(OURS, WIDER, 2)) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()))


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda: hidden_mse(OURS, WIDER), (r"\[3, 4, 6\]", r"\[3, 4, 12\]")),
        (lambda: hidden_cosine(OURS, WIDER), (r"\[3, 4, 6\]", r"\[3, 4, 12\]")),
        (lambda: hidden_mse(OURS, THEIRS, MASK[:, :3]), (r"\[3, 3\]", r"\[3, 4\]")),
        (lambda: attention_transfer_loss(OURS, WIDER[:, :3]), (r"\[3, 4, 6\]", r"\[3, 3, 12\]")),
        (lambda: attention_loss(MAPS, THEIR_MAPS[:, :1]), (r"\[3, 2, 4, 4\]", r"\[3, 1, 4, 4\]")),
        (lambda: attention_transfer_loss(OURS, WIDER, MASK[:, :3]), (r"\[3, 3\]", r"\[3, 4\]")),
        (lambda: attention_loss(MAPS, THEIR_MAPS, MASK[:, :3]), (r"\[3, 3\]", r"\[3, 4\]")),
        (lambda: relation_loss(OURS, WIDER, 2, MASK[:, :3]), (r"\[3, 3\]", r"\[3, 4\]")),
        (lambda: relation_loss(OURS, WIDER[:2], 2), (r"\[3, 4, 6\]", r"\[2, 4, 12\]")),
        (lambda: relation_loss(OURS, WIDER, 4), (r"\[3, 4, 6\]", "4 relation heads")),
        (lambda: Projection(5, 6)(OURS), ("5", r"\[3, 4, 6\]")),
        (lambda: linear_cka(OURS[0], THEIRS[0, :3]), (r"\[4, 6\]", r"\[3, 6\]")),
    ],
)
def test_what_does_not_fit_is_refused_with_the_shapes(loss, shapes) -> None:
    with pytest.raises(ModelError, match=f"{shapes[0]}.*{shapes[1]}.*") as refused:
        loss()
    assert str(refused.value).count(".") == 1


def test_a_projection_learns_what_makes_a_narrow_student_like_its_teacher() -> None:
    torch.manual_seed(0)
    narrow = drawn(64, 3).float()
    teacher = narrow @ drawn(3, 8, seed=1).float()
    projection = Projection(3, 8)
    optimizer = torch.optim.Adam(projection.parameters(), lr=0.05)
    before = hidden_mse(projection(narrow), teacher).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = hidden_mse(projection(narrow), teacher)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3 * before
    assert torch.equal(Projection(4, 4)(narrow[:4, :1].expand(4, 4)), narrow[:4, :1].expand(4, 4))


class TwoParts(nn.Module):
    """Gives two things, as attention modules do."""

    def forward(self, x):
        return x + 1, x * 2


def test_outputs_are_captured_by_path_with_their_gradients_and_nothing_stays_behind() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(TwoParts()), nn.Identity())
    model[2].forward = lambda said: said[0]
    x = torch.ones(4, 2)
    with capture(model, ["0", "1.0"], attention=["1.0"], inputs=["1"]) as captured:
        model(x)
        assert torch.equal(captured.outputs["1.0"], captured.outputs["0"] + 1)
        assert torch.equal(captured.attention["1.0"], captured.outputs["0"] * 2)
        assert torch.equal(captured.inputs["1"], captured.outputs["0"])
        captured.outputs["1.0"].sum().backward()
        assert model[0].weight.grad is not None
    before = captured.outputs["0"]
    model(2 * x)
    assert captured.outputs["0"] is before
    with pytest.raises(ModelError, match=r"no module '1.O'; near it are .*'1.0'"), capture(model, ["1.O"]):
        pass
    assert not model[0]._forward_hooks


def test_layers_are_mapped_uniformly_or_at_the_end() -> None:
    assert uniform(2, 6) == (3, 6)
    assert uniform(4, 6) == (2, 3, 4, 6)
    assert uniform(6, 6) == (1, 2, 3, 4, 5, 6)
    assert last(3, 6) == (0, 0, 6)
    assert last(3, 6, count=2) == (0, 5, 6)
    with pytest.raises(ModelError, match="7 layers cannot be mapped on a teacher of 6"):
        uniform(7, 6)


def test_a_map_is_searched_that_rises_and_is_the_best_of_all() -> None:
    from itertools import combinations

    teacher = [drawn(12, 5, seed=seed) for seed in range(5)]
    turn, _ = torch.linalg.qr(drawn(5, 5, seed=9))
    assert searched([teacher[0] @ turn, 3 * teacher[2], teacher[4]], teacher) == (1, 3, 5)
    student = [drawn(12, 7, seed=seed) for seed in (20, 21, 22)]
    worth = {
        ways: sum(float(linear_cka(one, teacher[j])) for one, j in zip(student, ways, strict=True))
        for ways in combinations(range(5), 3)
    }
    assert tuple(j - 1 for j in searched(student, teacher)) == max(worth, key=lambda ways: worth[ways])
    assert len(set(searched([teacher[3]] * 2, teacher))) == 2  # without rising, the fourth would teach both
