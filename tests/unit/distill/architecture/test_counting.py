"""Closed-form counts against published sizes, against torch's modules and against its FlopCounterMode."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from stillhouse.distill.architecture.counting import (
    EncoderShape,
    attention_parameters,
    matrix_flops,
    mlp_parameters,
    parameters,
    weight_bytes,
    work,
)
from stillhouse.models.port import ModelError

SMALL = EncoderShape(2, 24, 40, 3, vocabulary=50, positions=16, labels=5)


def bert(shape: EncoderShape) -> BertModel:
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.positions,
        attn_implementation="eager",
    )
    return BertModel(config, add_pooling_layer=False).eval()


def test_published_sizes() -> None:
    base = EncoderShape(12, 768, 3072, 12)
    # One layer of BERT-base has 7,087,872 weights, and BERT-large's encoder 334 million.
    assert attention_parameters(base) + mlp_parameters(base) == 7_087_872
    assert parameters(EncoderShape(24, 1024, 4096, 16)) - (2 * 1024 + 2) == 334_092_288


def test_parameters_are_those_of_the_module() -> None:
    counted = sum(weight.numel() for weight in bert(SMALL).parameters())
    assert parameters(SMALL) == counted + sum(weight.numel() for weight in nn.Linear(24, 5).parameters())


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 12), (3, 7)])
def test_operations_are_those_that_torch_counts(batch: int, length: int) -> None:
    ids = torch.ones(batch, length, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bert(SMALL)(input_ids=ids, attention_mask=ids)
    head = 2 * batch * SMALL.width * SMALL.labels
    assert matrix_flops(SMALL, length, batch) - head == counter.get_total_flops()


def test_cut_heads_cost_as_much_less_as_they_are_fewer() -> None:
    half = EncoderShape(2, 24, 40, 2, vocabulary=50, positions=16, labels=5, attention=16)
    whole = {part.kind: part.flops for part in work(SMALL, 8)}
    cut = {part.kind: part.flops for part in work(half, 8)}
    assert cut["attention_linear"] * 24 == whole["attention_linear"] * 16
    assert cut["mlp_linear"] == whole["mlp_linear"]


def test_int8_is_about_a_quarter() -> None:
    shape = EncoderShape(6, 384, 1536, 12)
    assert weight_bytes(shape, 32, 32) == 4 * parameters(shape)
    assert 0.25 < weight_bytes(shape) / weight_bytes(shape, 32, 32) < 0.29


@pytest.mark.parametrize(
    ("shape", "said"), [({"heads": 5}, "24 cannot be shared by 5 heads"), ({"layers": 0}, "at least 1")]
)
def test_impossible_shapes_are_refused(shape: dict[str, int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        EncoderShape(**({"layers": 1, "width": 24, "ffn": 8, "heads": 3} | shape))
    with pytest.raises(ModelError, match="at least 1"):
        work(SMALL, 0)
