"""Where the parts of a language model are that pruning knows: models built like Llama (SmolLM, Mistral, Qwen2 ...).

>>> best([0.1, 0.9, 0.4], 2)
[1, 2]
>>> linear = nn.Linear(4, 3)
>>> rows_kept(linear, torch.tensor([0, 2])), columns_kept(linear, torch.tensor([1]))
(Linear(in_features=4, out_features=2, bias=True), Linear(in_features=1, out_features=3, bias=True))
>>> layers_of(linear)
Traceback (most recent call last):
...
stillhouse.models.port.ModelError: Linear cannot be pruned: it has no list of layers at `model.layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.distill.causal_lm.packing import Batch
from stillhouse.models.port import ModelError


def layers_of(model: Any) -> Any:
    """The transformer layers, each with `self_attn` and `mlp`. Raises `ModelError` for a model built otherwise."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(model).__name__} cannot be pruned: it has no list of layers at `model.layers`.")
    for part in (*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        if not isinstance(_at(layers[0], part), nn.Linear):
            raise ModelError(f"{type(model).__name__} cannot be pruned: its layers have no linear `{part}`.")
    return layers


@dataclass(slots=True)
class Watch:
    """What hooks of a model know while texts pass through it.

    `mask` bool [R, L]: the current batch's tokens that count; `tokens`: how many there were. First tokens see
    themselves alone, as padding does: neither counts.
    """

    mask: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    tokens: int = 0

    def look(self, model: Any, batches: Sequence[Batch], hooks: Sequence[Any]) -> None:
        """Let `batches` pass through `model`, whose `hooks` are removed after."""
        try:
            for batch in batches:
                self.mask = batch.mask[:, 0].sum(dim=-1) > 1
                self.tokens += int(self.mask.sum())
                model.base_model(
                    input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
                )
        finally:
            for hook in hooks:
                hook.remove()


def rows_kept(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    """The same layer with only its outputs at `kept` int64 [n]."""
    return _linear(linear.weight[kept], None if linear.bias is None else linear.bias[kept])


def columns_kept(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    """The same layer with only its inputs at `kept` int64 [n]."""
    return _linear(linear.weight[:, kept], linear.bias)


def best(scores: Sequence[float] | Tensor, count: int) -> list[int]:
    """The places of the `count` highest scores, in order; the first of equal ones."""
    order = sorted(range(len(scores)), key=lambda place: (-float(scores[place]), place))
    return sorted(order[:count])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
