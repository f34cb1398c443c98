"""From logits to log-probabilities, and from losses of tokens to the loss of a batch.

>>> import torch
>>> log_probabilities(torch.tensor([0.0, 0.0, 9.0]), vocabulary=2).exp().tolist()  # the third column is padding
[0.5, 0.5]
>>> float(mean_over_tokens(torch.tensor([[1.0, 7.0]]), torch.tensor([[True, False]])))
1.0
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def log_probabilities(logits: Tensor, temperature: float = 1.0, vocabulary: int | None = None) -> Tensor:
    """Log-probabilities float32 [..., v] of `logits` [..., V] of any float type.

    `vocabulary`: how many of the columns are tokens. Models of one tokenizer pad their tables to different widths, and
    what stands there is nobody's. ValueError where there are fewer columns than that.
    """
    if vocabulary is not None:
        if logits.shape[-1] < vocabulary:
            raise ValueError(f"the model gives {logits.shape[-1]} logits; its tokenizer has {vocabulary} tokens")
        logits = logits[..., :vocabulary]
    return functional.log_softmax(logits.float() / temperature, dim=-1)


def mean_over_tokens(losses: Tensor, counts: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of `losses` [B, n] over the tokens that count (`counts` bool [B, n]); 0 where none does.

    Every token counts the same, so long answers count more than short ones; `weight` [B] changes that. ValueError where
    the shapes do not fit.
    """
    if counts.shape != losses.shape or (weight is not None and weight.shape != losses.shape[:1]):
        given = "" if weight is None else f" and weights {tuple(weight.shape)}"
        raise ValueError(f"losses of shape {tuple(losses.shape)} cannot be counted by {tuple(counts.shape)}{given}")
    mask = counts.to(losses.dtype)
    if weight is not None:
        mask = mask * weight.to(losses.dtype).unsqueeze(-1)
    # Not losses * mask alone: what does not count may be infinite.
    return losses.masked_fill(~counts, 0.0).mul(mask).sum() / mask.sum().clamp(min=1e-9)
