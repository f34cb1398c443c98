"""MiniLLM (Gu et al. 2306.08543): the sequence's reverse KL, on answers that the student itself drew.

The gradient of KL(q || p) over whole sequences has two parts (equation 3): each step's own reverse KL, which has a
closed form, and what a token does to the rest of the answer, which takes a sample: REINFORCE with the rest's reward
R_{t+1} = sum over later tokens of log p - log q. The rest's reward is divided by its length (equation 4), without which
short answers win; unlike the paper this is a choice, so that the test can compare the gradient with the exact one.

>>> import torch
>>> p, q = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.25, 0.75]]]).log()
>>> round(float(minillm_loss(p, q, torch.tensor([[1]]), torch.tensor([[True]]))), 4)  # of one token: the reverse KL
0.1308
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.objectives.forward_kl import require_one_shape
from stillhouse.distill.objectives.reverse_kl import reverse_kl


def minillm_loss(
    p: Tensor,
    q: Tensor,
    tokens: Tensor,
    counts: Tensor,
    drawn: Tensor | None = None,
    *,
    length_normalised: bool = True,
) -> Tensor:
    """What to minimise for answers `tokens` int64 [B, n] that were drawn from the student, or from a mixture; a scalar.

    `p`, `q` are log-probabilities [B, n, V] at each token's place, `counts` bool [B, n] is the answer's tokens. `drawn`
    [B, n]: log-probabilities with which the tokens were drawn, where that was not q itself (the teacher mixed in,
    equation 5); each token is then weighed by q / drawn, without gradient, as in the paper's approximation.
    ValueError where the shapes do not fit.
    """
    require_one_shape(p, q)
    for what, given in (("tokens", tokens), ("counts", counts), ("drawn", drawn)):
        if given is not None and given.shape != q.shape[:-1]:
            raise ValueError(f"{what} of shape {tuple(given.shape)} are not of answers of shape {tuple(q.shape)}")
    mask = counts.to(q.dtype)
    said_q = q.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    said_p = p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        reward = (said_p - said_q).masked_fill(~counts, 0.0)
        rest = reward.flip(-1).cumsum(-1).flip(-1) - reward  # R_{t+1}
        if length_normalised:
            rest = rest / (mask.flip(-1).cumsum(-1).flip(-1) - mask).clamp(min=1.0)
        weight = mask if drawn is None else mask * (said_q - drawn).masked_fill(~counts, 0.0).exp()
    losses = reverse_kl(p, q).masked_fill(~counts, 0.0) - rest * said_q.masked_fill(~counts, 0.0)
    return (weight * losses).sum() / tokens.shape[0]
