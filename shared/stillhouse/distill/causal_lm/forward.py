"""What a language model says at the places that are learned, and nowhere else: its vocabulary costs most of a pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.distill.causal_lm.packing import Batch


def states_of(model: Any, batch: Batch) -> Tensor:
    """Last hidden states [m, width] before each of a batch's learned tokens."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden: Tensor = inner.base_model(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    return hidden.flatten(0, 1)[batch.at]


def logits_of(model: Any, states: Tensor) -> Tensor:
    """Logits float32 [m, V] of hidden states [m, width]."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return logits_by(inner.get_output_embeddings(), inner.config, states)


def logits_by(head: Any, config: Any, states: Tensor) -> Tensor:
    """The same by a model's output layer and configuration alone."""
    logits: Tensor = head(states).float()
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if not cap else cap * torch.tanh(logits / cap)
