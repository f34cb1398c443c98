"""What stands on a student's vector of a text: a linear layer, or an MLP of one hidden layer.

>>> head(4, 3)
Linear(in_features=4, out_features=3, bias=True)
>>> [tuple(weights.shape) for weights in head(4, 3, hidden=8).parameters()]
[(8, 4), (8,), (3, 8), (3,)]
"""

from __future__ import annotations

from torch import nn


def head(width: int, labels: int, hidden: int = 0) -> nn.Module:
    """From [B, width] to logits [B, labels]; `hidden` units with a ReLU (Nair & Hinton 2010) between, 0: none."""
    if not hidden:
        return nn.Linear(width, labels)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, labels))
