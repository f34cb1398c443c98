"""Mixup on embeddings: between two texts the answer lies between theirs (Zhang et al. 1710.09412, equation 1).

x' = lambda x_i + (1 - lambda) x_j and y' = lambda y_i + (1 - lambda) y_j with lambda ~ Beta(a, a), one for each row.
Tokens cannot be mixed, sentence vectors can (Guo, Mao & Zhang 1905.08941).

>>> import torch
>>> vectors, soft = torch.eye(2), torch.eye(2)
>>> mixed, targets = mixed_up(vectors, soft, 0.4, torch.Generator().manual_seed(0))
>>> bool(torch.allclose(mixed, targets))
True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows
from stillhouse.distill.response.soft_targets import softened_divergence


def mixed_up(vectors: Tensor, soft: Tensor, concentration: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`vectors` [B, ...] and probabilities `soft` [B, L], each row mixed with that of another place of the batch.

    `concentration` is the a of Beta(a, a): near 0 hardly anything is mixed, at 1 every share is as likely. The larger
    share is a row's own. ValueError for a concentration of 0 or less, or batches of two sizes.
    """
    if concentration <= 0:
        raise ValueError(f"Beta({concentration:g}, {concentration:g}) does not exist; give a number above 0")
    if len(vectors) != len(soft):
        raise ValueError(f"{len(vectors)} vectors and {len(soft)} targets are not of one batch")
    # A beta variable is one of two gammas by their sum; torch's Beta takes no generator.
    shape = torch.full((2, len(vectors)), float(concentration), dtype=torch.float64)
    gammas = torch._standard_gamma(shape, generator=generator).clamp(min=1e-30)
    own = gammas[0] / gammas.sum(dim=0)
    own = torch.maximum(own, 1.0 - own)
    partner = torch.randperm(len(vectors), generator=generator)
    share = own.to(vectors.dtype).reshape(-1, *[1] * (vectors.dim() - 1))
    mixed = share * vectors + (1.0 - share) * vectors[partner]
    share = own.to(soft.dtype).unsqueeze(-1)
    return mixed, share * soft + (1.0 - share) * soft[partner]


@contextmanager
def mixing(
    head: nn.Module, targets: Tensor, concentration: float, generator: torch.Generator
) -> Iterator[list[Tensor]]:
    """Inside, the vectors [B, d] that `head` is given are mixed, as `mixed_up`; the list then holds `targets` [B, ...]
    mixed by the same shares, one entry for each time that it was called.

    So any student that is a head on a vector can be mixed, whatever makes the vector (manifold mixup at the last
    hidden layer, Verma et al. 1806.05236).

    >>> head = nn.Linear(2, 2)
    >>> with mixing(head, torch.eye(2), 0.4, torch.Generator().manual_seed(0)) as mixed:
    ...     said = head(torch.eye(2))
    >>> bool(torch.allclose(said, mixed[0] @ head.weight.T + head.bias))
    True
    """
    mixed: list[Tensor] = []

    def mix(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        vectors, answers = mixed_up(given[0], targets, concentration, generator)
        mixed.append(answers)
        return (vectors, *given[1:])

    hook = head.register_forward_pre_hook(mix, prepend=True)  # what rounds the head's inputs comes after
    try:
        yield mixed
    finally:
        hook.remove()


def mixed_soft_target_loss(
    module: nn.Module,
    head: nn.Module,
    inputs: Sequence[Tensor],
    soft: Tensor,
    hard: Tensor,
    temperature: float,
    alpha: float | Tensor,
    weight: Tensor | None,
    concentration: float,
) -> Tensor:
    """`soft_target_loss` of `module(*inputs)` with what its `head` is given mixed in pairs, a float32 scalar.

    `soft` [B, L], `hard` int64 [B], `alpha`, one or [B], and `weight` [B] or None are those of the rows before; all are
    mixed by the same shares, drawn from torch's own generator. The module gives logits [B, L], or them first.

    >>> from stillhouse.distill.response.soft_targets import soft_target_loss
    >>> head, alike = nn.Linear(2, 2), torch.ones(4, 2)  # mixed with each other, they stay what they are
    >>> soft, hard = torch.tensor([[0.9, 0.1]] * 4), torch.zeros(4, dtype=torch.int64)
    >>> mixed = mixed_soft_target_loss(head, head, [alike], soft, hard, 2.0, 0.2, None, concentration=0.4)
    >>> bool(torch.isclose(mixed, soft_target_loss(head(alike), soft, hard, 2.0, 0.2)))
    True
    """
    labels = functional.one_hot(hard, soft.shape[1]).to(soft.dtype)
    alphas = torch.as_tensor(alpha, dtype=soft.dtype).expand(len(soft))
    weights = torch.ones_like(alphas) if weight is None else weight
    targets = torch.cat([soft, labels, alphas[:, None], weights[:, None]], dim=1)
    with mixing(head, targets, concentration, torch.default_generator) as mixed:
        said = module(*inputs)
    scores = at_least_float32(said[0] if isinstance(said, tuple) else said)
    count = soft.shape[1]
    soft, labels, alphas, weights = mixed[0][:, :count], mixed[0][:, count:-2], mixed[0][:, -2], mixed[0][:, -1]
    hard_loss = functional.cross_entropy(scores, labels, reduction="none")
    soft_loss = softened_divergence(scores, soft, temperature)
    losses = alphas * hard_loss + (1.0 - alphas) * temperature**2 * soft_loss
    return mean_of_rows(losses, None if weight is None else weights)
