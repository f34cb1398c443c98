"""KL(p || q): the student covers everything that the teacher may say (Hinton, Vinyals & Dean 1503.02531).

>>> import torch
>>> round(float(forward_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())), 4)
0.1438
"""

from __future__ import annotations

from torch import Tensor


def forward_kl(p: Tensor, q: Tensor) -> Tensor:
    """sum_v p_v (log p_v - log q_v) [...], of log-probabilities `p`, `q` [..., V]. A token that p rules out is 0.

    ValueError where the two are not of one shape.
    """
    require_one_shape(p, q)
    never = p.isneginf()  # 0 log 0 is 0, and so is its gradient
    return (p.exp() * (p.masked_fill(never, 0.0) - q.masked_fill(never, 0.0))).sum(dim=-1)


def require_one_shape(p: Tensor, q: Tensor) -> None:
    """ValueError, with both shapes, where teacher `p` and student `q` differ: nothing may be broadcast.

    >>> import torch
    >>> require_one_shape(torch.zeros(5, 4), torch.zeros(1, 4))
    Traceback (most recent call last):
    ValueError: teacher and student must be of one shape; they are (5, 4) and (1, 4)
    """
    if p.shape != q.shape:
        raise ValueError(f"teacher and student must be of one shape; they are {tuple(p.shape)} and {tuple(q.shape)}")
