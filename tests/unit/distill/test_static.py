"""Static vectors: what learns and what does not, closed forms, gradients, and what order is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from stillhouse.distill.heads import head
from stillhouse.distill.known_rows import KnownRows
from stillhouse.distill.static_embeddings import SCALE, StaticEmbeddings, components, weighted
from stillhouse.distill.text_cnn import TextCnn

VOCABULARY, DIM = 10, 4
VECTORS = torch.arange(VOCABULARY * DIM, dtype=torch.float32).reshape(VOCABULARY, DIM) / 10
SEEN = [np.array([3, 5]), np.array([5, 2])]


def test_words_start_as_given_and_those_not_seen_stay_so() -> None:
    rows = KnownRows(SEEN, VECTORS).eval()
    ids = torch.tensor([[3, 7, 0]])
    found = rows(ids)[0]
    assert torch.equal(found[:2], VECTORS[[3, 7]])
    assert not found[2].any()
    assert rows.table.weight.shape == (4, DIM)  # padding and three words
    rows.settle()
    assert torch.equal(rows(ids)[0], found)
    assert rows.table.weight.shape == (VOCABULARY, DIM)
    assert not any(parameter.requires_grad for parameter in rows.parameters())


def test_only_what_training_sees_learns() -> None:
    rows = KnownRows(SEEN, VECTORS)
    optimizer = torch.optim.AdamW(rows.parameters(), lr=0.1)
    rows(torch.tensor([[3, 0]])).sum().backward()
    optimizer.step()
    after = rows.eval()(torch.tensor([[3, 7, 0]]))[0]
    assert not torch.allclose(after[0], VECTORS[3])
    assert torch.equal(after[1], VECTORS[7])
    assert not after[2].any()


def test_ids_beyond_the_table_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 16; the vocabulary has 10"):
        KnownRows([np.array([16])], VECTORS)


def test_a_static_student_is_a_sum_over_the_root_of_its_size_and_a_linear_head() -> None:
    torch.manual_seed(0)
    module = StaticEmbeddings(SEEN, VECTORS, 3).eval()
    expected = module.head(VECTORS[[3, 5, 7]].sum(dim=0) / 3**0.5)
    assert torch.allclose(module(torch.tensor([[3, 5, 7, 0, 0]]))[0], expected, atol=1e-6)
    assert torch.allclose(module(torch.tensor([[0]]))[0], module.head(torch.zeros(DIM)))


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("kind", ["static", "cnn"])
def test_gradients_are_right(kind, hidden) -> None:
    torch.manual_seed(1)
    if kind == "static":
        module = StaticEmbeddings(SEEN, VECTORS, 3, hidden=hidden)
        features = torch.tensor([[3, 5, 2, 0], [2, 5, 3, 5]])
    else:
        module = TextCnn([np.array([2, 3, 5])], torch.randn(VOCABULARY, DIM), 3, filters=3, hidden=hidden)
        features = torch.tensor([[3, 5, 2, 0], [2, 5, 0, 0]])
    module = module.double()
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    values = tuple(module.get_parameter(name).detach().clone().requires_grad_() for name in names)

    def logits(*parameters: torch.Tensor) -> torch.Tensor:
        # Padding's row is held at zero by its embedding, which finite differences do not know.
        return functional_call(module, dict(zip(names, parameters, strict=True)), (features[:, :2],))

    assert torch.autograd.gradcheck(logits, values)
    assert module(features).dtype == torch.float64


def test_a_cnn_reads_order_and_not_padding() -> None:
    torch.manual_seed(0)
    module = TextCnn([np.array([1, 2, 3])], torch.randn(VOCABULARY, DIM), 3, filters=8).eval()
    one, other = module(torch.tensor([[1, 2, 3]])), module(torch.tensor([[3, 2, 1]]))
    assert not torch.allclose(one, other)
    assert torch.allclose(module(torch.tensor([[1, 2, 3, 0, 0, 0]])), one, atol=1e-6)
    assert module(torch.tensor([[1]])).shape == (1, 3)  # shorter than any filter
    bag = StaticEmbeddings([np.array([1, 2, 3])], torch.randn(VOCABULARY, DIM), 3).eval()
    assert torch.allclose(bag(torch.tensor([[1, 2, 3]])), bag(torch.tensor([[3, 2, 1]])), atol=1e-6)


def test_components_keep_distances_and_weights_favour_the_rare() -> None:
    torch.manual_seed(0)
    flat = torch.randn(40, 2) @ torch.randn(2, 6)  # of rank two
    reduced = components(flat, 2)
    assert torch.allclose(torch.pdist(reduced), torch.pdist(flat), atol=1e-3)
    with pytest.raises(ValueError, match="more than the encoder"):
        components(flat, 7)
    made = weighted(torch.ones(1000, 3) + torch.randn(1000, 3) * 0.01)
    lengths = made.norm(dim=1)
    assert not made[0].any()
    assert lengths[1] < lengths[10] < lengths[500]
    assert made.std() == pytest.approx(SCALE, rel=0.01)


def test_heads_are_linear_or_have_a_hidden_layer() -> None:
    torch.manual_seed(0)
    linear, mlp = head(4, 3), head(4, 3, hidden=8)
    x = torch.randn(2, 4)
    assert torch.allclose(linear(2 * x) - linear(x), linear(x) - linear(0 * x), atol=1e-6)
    assert not torch.allclose(mlp(2 * x) - mlp(x), mlp(x) - mlp(0 * x), atol=1e-3)
