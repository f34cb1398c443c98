"""Narrower layers: those neurons and attention heads stay that are most active (Minitron, Muralidharan 2407.14679).

Importance, from forward passes over some texts alone (section 2.2, with the mean over all tokens):

    neuron j of a feed-forward layer:   mean_t |h_{t,j}|          h: what its last linear map reads
    key-value head g of an attention:   mean_t sum_i |a_{t,i}|_2  a_i: what query head i of the group g gives

Every layer keeps as many as every other, as configurations have one number for all; which ones is each layer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.distill.causal_lm.packing import Batch
from stillhouse.distill.pruning.llama import Watch, best, columns_kept, layers_of, rows_kept
from stillhouse.models.port import ModelError


@torch.no_grad()
def activities(model: Any, batches: Sequence[Batch]) -> tuple[list[Tensor], list[Tensor]]:
    """Importance of each layer's neurons [neurons] and of its key-value heads [heads]. Raises `ModelError`.

    >>> import numpy as np
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from stillhouse.distill.causal_lm.examples import Encoded
    >>> from stillhouse.distill.causal_lm.packing import batch_of
    >>> shape = {"hidden_size": 16, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=3, **shape)).eval()
    >>> _ = model.model.layers[0].mlp.gate_proj.weight.data[5].zero_()  # a neuron that never answers
    >>> read = batch_of([[Encoded(np.arange(3, 9, dtype=np.int32), answer_at=2)]], padding=0)
    >>> neurons, heads = activities(model, [read])
    >>> neurons[0].shape, heads[0].shape, int(neurons[0].argmin())
    (torch.Size([128]), torch.Size([2]), 5)
    >>> narrow(model, [read], neurons=0.5, heads=0.5)
    >>> model.config.intermediate_size, model.config.num_key_value_heads, model.config.num_attention_heads
    (64, 1, 2)
    >>> keep_neurons(model, [[0, 3]] * 3), keep_heads(model, [[0]] * 3)
    (None, None)
    >>> model(read.ids).logits.shape
    torch.Size([1, 6, 32])
    """
    layers = layers_of(model)
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    neurons: list[Tensor] = [torch.zeros(layer.mlp.down_proj.in_features) for layer in layers]
    attended: list[Tensor] = [torch.zeros(groups) for _ in layers]
    size = layers[0].self_attn.head_dim
    watch = Watch()

    def of_neurons(place: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            neurons[place] += args[0][watch.mask].float().abs().sum(dim=0).cpu()

        return hook

    def of_heads(place: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            sizes = args[0][watch.mask].float().view(-1, heads, size).norm(dim=-1).sum(dim=0)
            attended[place] += sizes.view(groups, -1).sum(dim=-1).cpu()

        return hook

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(of_neurons(i)) for i, layer in enumerate(layers)]
    hooks += [layer.self_attn.o_proj.register_forward_pre_hook(of_heads(i)) for i, layer in enumerate(layers)]
    watch.look(model, batches, hooks)
    return [one / max(1, watch.tokens) for one in neurons], [one / max(1, watch.tokens) for one in attended]


def keep_neurons(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Keep the neurons `kept` (one list for each layer, all of one length) of `model`'s feed-forward layers."""
    for layer, places in zip(layers_of(model), kept, strict=True):
        chosen = torch.tensor(places, device=layer.mlp.down_proj.weight.device)
        layer.mlp.gate_proj = rows_kept(layer.mlp.gate_proj, chosen)
        layer.mlp.up_proj = rows_kept(layer.mlp.up_proj, chosen)
        layer.mlp.down_proj = columns_kept(layer.mlp.down_proj, chosen)
        layer.mlp.intermediate_size = len(places)
    model.config.intermediate_size = len(kept[0])


def keep_heads(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Keep the key-value heads `kept` of each layer, with the query heads that share them."""
    config = model.config
    shared = config.num_attention_heads // config.num_key_value_heads
    for layer, places in zip(layers_of(model), kept, strict=True):
        attention = layer.self_attn
        size = attention.head_dim
        device = attention.q_proj.weight.device
        groups = torch.tensor(places, device=device)
        asking = (groups[:, None] * shared + torch.arange(shared, device=device)).flatten()
        of_groups, of_asking = (
            (heads[:, None] * size + torch.arange(size, device=device)).flatten() for heads in (groups, asking)
        )
        attention.q_proj = rows_kept(attention.q_proj, of_asking)
        attention.k_proj = rows_kept(attention.k_proj, of_groups)
        attention.v_proj = rows_kept(attention.v_proj, of_groups)
        attention.o_proj = columns_kept(attention.o_proj, of_asking)
    config.head_dim = layers_of(model)[0].self_attn.head_dim  # no longer the width by the number of heads
    config.num_key_value_heads = len(kept[0])
    config.num_attention_heads = len(kept[0]) * shared


def narrow(model: Any, batches: Sequence[Batch], neurons: float, heads: float) -> None:
    """Keep these shares of the most active neurons and key-value heads, at least one of each. Raises `ModelError`."""
    if not (0 < neurons <= 1 and 0 < heads <= 1):
        raise ModelError(f"keep_neurons and keep_heads are shares between 0 and 1, not {neurons:g} and {heads:g}.")
    of_neurons, of_heads = activities(model, batches)
    if neurons < 1:
        # Of 64: matrix kernels and groups of quantised weights divide by it.
        count = min(len(of_neurons[0]), max(1, round(neurons * len(of_neurons[0]) / 64)) * 64)
        keep_neurons(model, [best(scores, count) for scores in of_neurons])
    if heads < 1:
        keep_heads(model, [best(scores, max(1, round(heads * len(scores)))) for scores in of_heads])
