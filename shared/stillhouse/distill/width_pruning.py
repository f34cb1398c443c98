"""Narrower encoders: attention heads and inner neurons that contribute least are taken out of every layer.

What a head or neuron contributes is the mean squared length of what it adds to the layer's output on training texts
(the activation-based importance of Muralidharan et al. 2407.14679, section 2.2, for the question of Michel et al.
1905.10650, which heads matter; no labels, no gradients). Then the output matrices are fitted anew by least squares,
layer by layer from below, so that each layer gives what the whole one gave, also where the layers below it changed
(mask tuning of Kwon et al. 2204.09656, for whole matrices). Nothing else is mended before the student learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.cut_encoder import CutEncoder, padding_bias
from stillhouse.models.port import ModelError

MOST_TEXTS: Final = 512  # that importance and least squares look at
RIDGE: Final = 0.01  # of the mean square of an input, towards the weights as they were


def narrow(module: CutEncoder, texts: Sequence[NDArray[np.int64]], share: float) -> None:
    """Keep about `share` of the heads and of the inner neurons of every layer of `module`, at least one head.

    `texts`: token ids, each int64 [n]; at most 512 are looked at, evenly spaced. Raises `ModelError` where `share` is
    not in (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise ModelError(f"A share of {share:g} of the heads cannot be kept; set width above 0 and at most 1.")
    if share == 1.0:
        return
    places = np.unique(np.linspace(0, len(texts) - 1, MOST_TEXTS).round().astype(int))
    longest = max(len(texts[i]) for i in places)
    ids = torch.zeros(len(places), longest, dtype=torch.long)
    for row, place in enumerate(places):
        ids[row, : len(texts[place])] = torch.from_numpy(texts[place])
    mask = torch.zeros_like(ids)
    for row, place in enumerate(places):
        mask[row, : len(texts[place])] = 1
    with torch.no_grad():
        whole = module.transformer.embeddings(ids)
        cut = whole
        for layer in module.transformer.encoder.layer:
            whole, cut = _narrow_layer(layer, whole, cut, mask, share)


def _narrow_layer(layer: Any, whole: Tensor, cut: Tensor, mask: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Narrow one layer in place; gives what it made before and what it makes now of their inputs [B, n, width]."""
    bias, real = padding_bias(mask), mask.bool()
    attention, size = layer.attention.self, int(layer.attention.self.attention_head_size)
    heads = attention.query.out_features // size
    output = layer.attention.output

    whole_mixed = attention(whole, bias)[0]
    whole_said = output.dense(whole_mixed) + whole
    each = contributions(whole_mixed[real], output.dense.weight).reshape(heads, size).sum(dim=1)
    kept = largest(each, max(1, round(share * heads)))
    columns = (kept[:, None] * size + torch.arange(size)).flatten()
    for name in ("query", "key", "value"):
        setattr(attention, name, _rows(getattr(attention, name), columns))
    attention.num_attention_heads, attention.all_head_size = len(kept), len(columns)
    cut_mixed = attention(cut, bias)[0]
    output.dense = refitted(output.dense, columns, cut_mixed[real], (whole_said - cut)[real])
    whole_middle = output.LayerNorm(whole_said)
    cut_middle = output.LayerNorm(output.dense(cut_mixed) + cut)

    whole_inner = layer.intermediate(whole_middle)
    whole_said = layer.output.dense(whole_inner) + whole_middle
    neurons = contributions(whole_inner[real], layer.output.dense.weight)
    kept = largest(neurons, max(1, round(share * len(neurons))))
    layer.intermediate.dense = _rows(layer.intermediate.dense, kept)
    cut_inner = layer.intermediate(cut_middle)
    layer.output.dense = refitted(layer.output.dense, kept, cut_inner[real], (whole_said - cut_middle)[real])
    cut_said = layer.output.LayerNorm(layer.output.dense(cut_inner) + cut_middle)
    return layer.output.LayerNorm(whole_said), cut_said


def contributions(inputs: Tensor, weight: Tensor) -> Tensor:
    """Mean squared length of what each of a matrix's inputs adds to its output, [k]: E[x_j^2] |w_j|^2.

    `inputs` [N, k]; `weight` [width, k].

    >>> contributions(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [5.0, 18.0]
    """
    return inputs.square().mean(dim=0) * weight.square().sum(dim=0)


def largest(values: Tensor, count: int) -> Tensor:
    """Places of the `count` largest of `values` [k], ascending.

    >>> largest(torch.tensor([3.0, 1.0, 2.0]), 2).tolist()
    [0, 2]
    """
    return values.argsort(descending=True, stable=True)[:count].sort().values


def refitted(layer: nn.Linear, kept: Tensor, inputs: Tensor, wanted: Tensor) -> nn.Linear:
    """`layer` on its inputs `kept` [j] alone, fitted to give `wanted` [N, width] for `inputs` [N, j].

    Least squares with a ridge towards the weights as they were: where little is known, little changes.
    """
    old = torch.cat([layer.weight[:, kept].T, layer.bias[None]]).double()
    table = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    squares = table.T @ table
    squares.diagonal().add_(RIDGE * float(squares.diagonal().mean()))
    new = old + torch.linalg.solve(squares, table.T @ (wanted.double() - table @ old))
    made = nn.Linear(len(kept), layer.out_features).requires_grad_(layer.weight.requires_grad)
    made.weight.copy_(new[:-1].T)
    made.bias.copy_(new[-1])
    return made


def _rows(layer: nn.Linear, kept: Tensor) -> nn.Linear:
    """`layer` with its outputs `kept` alone."""
    made = nn.Linear(layer.in_features, len(kept)).requires_grad_(layer.weight.requires_grad)
    made.weight.copy_(layer.weight[kept])
    made.bias.copy_(layer.bias[kept])
    return made
