"""Fewer layers: those stay that change what passes through them most (ShortGPT, Men et al. 2403.03853).

Block influence of layer i (equation 1), over all tokens t of some texts:

    BI_i = 1 - mean_t  x_{i,t} . x_{i+1,t} / (|x_{i,t}| |x_{i+1,t}|)

where x_i is what layer i reads and x_{i+1} what it gives. A layer near 0 passes on what it got; it is left out first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stillhouse.distill.causal_lm.packing import Batch
from stillhouse.distill.pruning.llama import Watch, best, layers_of
from stillhouse.models.port import ModelError


@torch.no_grad()
def block_influence(model: Any, batches: Sequence[Batch]) -> list[float]:
    """BI of every layer, 0 (passes on) to 2 (turns around), over the tokens of `batches`. Raises `ModelError`.

    >>> import numpy as np
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from stillhouse.distill.causal_lm.examples import Encoded
    >>> from stillhouse.distill.causal_lm.packing import batch_of
    >>> shape = {"hidden_size": 16, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=3, **shape)).eval()
    >>> _ = model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    >>> _ = model.model.layers[1].mlp.down_proj.weight.data.zero_()  # it passes on what it gets
    >>> read = batch_of([[Encoded(np.arange(3, 9, dtype=np.int32), answer_at=2)]], padding=0)
    >>> [round(influence, 3) > 0 for influence in block_influence(model, [read])]
    [True, False, True]
    >>> keep_most_influential(model, [read], 2)
    [0, 2]
    >>> keep_layers(model, [0])
    >>> len(model.model.layers)
    1
    """
    layers = layers_of(model)
    sums, watch = [0.0] * len(layers), Watch()

    def look(place: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            turned = 1.0 - functional.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[place] += float(turned[watch.mask].sum())

        return hook

    hooks = [layer.register_forward_hook(look(i), with_kwargs=True) for i, layer in enumerate(layers)]
    watch.look(model, batches, hooks)
    return [total / max(1, watch.tokens) for total in sums]


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Leave out every layer of `model` that is not in `kept`. Raises `ModelError` for layers that it does not have."""
    layers = layers_of(model)
    if not kept or min(kept) < 0 or max(kept) >= len(layers):
        raise ModelError(f"layers {list(kept)} cannot be kept: the model has layers 0 to {len(layers) - 1}.")
    chosen = sorted(set(kept))
    model.model.layers = nn.ModuleList(layers[place] for place in chosen)
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number  # where its keys and values are cached
    model.config.num_hidden_layers = len(chosen)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[place] for place in chosen]


def keep_most_influential(model: Any, batches: Sequence[Batch], count: int) -> list[int]:
    """Keep the `count` layers of `model` with the greatest influence, and say which. Raises `ModelError`."""
    layers = layers_of(model)
    if not 1 <= count <= len(layers):
        raise ModelError(
            f"keep_layers = {count}: the base has {len(layers)} layers; keep at least 1 and at most those."
        )
    kept = best(block_influence(model, batches), count)
    keep_layers(model, kept)
    return kept
