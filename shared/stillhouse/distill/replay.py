"""A student that learns something new without forgetting: replay, a tie to its earlier self, and probes that tell.

The tie is learning without forgetting (Li & Hoiem 1606.09282, equation 2): T^2 KL(previous_T || now_T) on replayed or
new texts, added to the loss of what is new. A probe suite is a named set of texts with answers that never teaches; it
is asked before and after.

>>> import torch
>>> before = torch.tensor([[2.0, 0.0]])
>>> float(kl_to_previous(before, before, temperature=2.0))
0.0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.data import LabelledText
from stillhouse.quality.binomial import clopper_pearson


def kl_to_previous(logits: Tensor, previous: Tensor, temperature: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """T^2 KL(previous_T || now_T), a (weighted) mean over the batch in nats, of logits [B, L] each.

    No gradient reaches `previous`. ValueError where the two differ in shape, or `weight` is not [B].
    """
    if logits.shape != previous.shape:
        raise ValueError(f"the student gives {tuple(logits.shape)} and its earlier self {tuple(previous.shape)}")
    if weight is not None and weight.shape != logits.shape[:1]:
        raise ValueError(f"weights of shape {tuple(weight.shape)} are not of the rows of {tuple(logits.shape)}")
    before = functional.log_softmax(previous.detach().float() / temperature, dim=-1)
    now = functional.log_softmax(logits.float() / temperature, dim=-1)
    losses = temperature**2 * functional.kl_div(now, before, reduction="none", log_target=True).sum(dim=-1)
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()


def replayed(old: Sequence[LabelledText], count: int, seed: int) -> list[LabelledText]:
    """`count` of `old` (all, where there are fewer), as evenly over their labels as these allow, in order of `old`.

    Experience replay (Ratcliff 1990; of language models de Masson d'Autume et al. 1906.01076), balanced by class.

    >>> old = [LabelledText("a", "often"), LabelledText("b", "often"), LabelledText("c", "rare")]
    >>> sorted(text.label for text in replayed(old, 2, seed=0))
    ['often', 'rare']
    """
    random = np.random.default_rng(seed)
    by_label: dict[str, list[int]] = {}
    for place in random.permutation(len(old)):
        by_label.setdefault(old[place].label, []).append(int(place))
    # Each label's first, then each label's second, and so on: rare labels keep what they have.
    turns = sorted((turn, place) for places in by_label.values() for turn, place in enumerate(places))
    return [old[place] for place in sorted(place for _, place in turns[:count])]


@dataclass(frozen=True, slots=True)
class Probe:
    """What one suite says of two students on the same `n` texts.

    `lost` were right before and are wrong now, `gained` the other way round. `p_forgot` is the exact one-sided McNemar
    probability of so many losses among the changes, if losses and gains were equally likely. `lower`, `upper`: 95 %
    Clopper-Pearson bounds of agreement now.
    """

    suite: str
    n: int
    before: float
    after: float
    lost: int
    gained: int
    p_forgot: float
    lower: float
    upper: float


def probe(
    suites: Mapping[str, Sequence[LabelledText]],
    before: Callable[[Sequence[str]], Sequence[str]],
    after: Callable[[Sequence[str]], Sequence[str]],
) -> list[Probe]:
    """Ask both students, each a function from texts to labels, about every suite. ValueError for an empty suite.

    >>> texts = [LabelledText("a", "x"), LabelledText("b", "y")]
    >>> found = probe({"old": texts}, before=lambda asked: ["x", "y"], after=lambda asked: ["x", "x"])[0]
    >>> found.before, found.after, found.lost, found.p_forgot
    (1.0, 0.5, 1, 0.5)
    """
    from scipy.stats import binom

    found = []
    for name, texts in suites.items():
        if not texts:
            raise ValueError(f"probe suite {name!r} has no texts")
        asked = [text.text for text in texts]
        truth = np.array([text.label for text in texts])
        was, now = np.array(before(asked)) == truth, np.array(after(asked)) == truth
        lost, gained = int((was & ~now).sum()), int((~was & now).sum())
        lower, upper = clopper_pearson(int(now.sum()), len(texts))
        p = float(binom.sf(lost - 1, lost + gained, 0.5)) if lost + gained else 1.0
        found.append(Probe(name, len(texts), float(was.mean()), float(now.mean()), lost, gained, p, lower, upper))
    return found
