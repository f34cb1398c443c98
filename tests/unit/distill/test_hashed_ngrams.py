"""What a hashed student has not seen, and padding, count for nothing."""

from __future__ import annotations

import numpy as np
import torch

from stillhouse.distill.hashed_ngrams import HashedNgrams

SEEN = [np.array([3, 900, 17]), np.array([17, 40])]


def test_the_table_has_a_row_for_each_feature_seen() -> None:
    module = HashedNgrams(SEEN, 1 << 10, 8, 3)
    assert module.table.weight.shape == (5, 8)  # and one for padding


def test_padding_and_unseen_features_change_nothing() -> None:
    torch.manual_seed(0)
    module = HashedNgrams(SEEN, 1 << 10, 8, 3)
    expected = module(torch.tensor([[3, 17]]))
    assert torch.allclose(module(torch.tensor([[3, 0, 17, 0]])), expected)
    assert torch.allclose(module(torch.tensor([[5, 3, 17, 1000]])), expected)
    assert not torch.allclose(module(torch.tensor([[3, 40]])), expected)


def test_a_text_without_any_known_feature_gets_the_bias() -> None:
    module = HashedNgrams(SEEN, 1 << 10, 8, 3)
    assert torch.equal(module(torch.tensor([[0]])), module.head.bias.unsqueeze(0))


def test_training_leaves_padding_at_nothing() -> None:
    module = HashedNgrams(SEEN, 1 << 10, 8, 3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.01)
    module(torch.tensor([[3, 0], [40, 17]])).square().sum().backward()
    optimizer.step()
    assert not module.table.weight[0].any()
