"""Which divergence between teacher and student a rung minimises, by the name that the task file gives it.

>>> import torch
>>> p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
>>> round(float(divergence("forward_kl", p, q)), 4)
0.1438
>>> round(float(divergence("jsd", p, q, beta=0.5)), 4)
0.0338
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stillhouse.distill.objectives.forward_kl import forward_kl
from stillhouse.distill.objectives.jsd import generalised_jsd
from stillhouse.distill.objectives.reverse_kl import reverse_kl
from stillhouse.distill.objectives.skew_kl import skew_kl, skew_reverse_kl

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]


def divergence(name: Divergence, p: Tensor, q: Tensor, *, beta: float = 0.5, skew: float = 0.1) -> Tensor:
    """The divergence [...] of log-probabilities of the teacher `p` and the student `q`, both [..., V].

    `beta` is JSD's, `skew` the skewed divergences'. ValueError where `p` and `q` are not of one shape.
    """
    if name == "jsd":
        return generalised_jsd(p, q, beta)
    if name == "skew_kl":
        return skew_kl(p, q, skew)
    if name == "skew_reverse_kl":
        return skew_reverse_kl(p, q, skew)
    return forward_kl(p, q) if name == "forward_kl" else reverse_kl(p, q)
