"""Handwritten digits (scikit-learn bundles 1,797 of 8 x 8 pixels), a teacher trained on them, and students of it.

The teacher learns from 700 digits with their true labels. Students are given its answers to 100 others; they are judged
on 500 that neither saw, by how often they answer as the teacher does (agreement).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from sklearn.datasets import load_digits
from torch import Tensor, nn

from stillhouse.distill.fitting import fit, shuffled
from stillhouse.distill.outputs import Outputs

LABELS = 10
SEEDS = (0, 1, 2, 3, 4)
TAUGHT, SELECT, HELD = slice(700, 800), slice(1000, 1150), slice(1200, 1700)
MORE = slice(800, 1000)  # that only some tests use


@cache
def pixels() -> Tensor:
    """All digits float32 [1797, 64], each pixel from 0 to 1, in an order of our own."""
    return torch.from_numpy(load_digits().data.astype(np.float32) / 16.0)[_order()]


@cache
def truth() -> Tensor:
    """Which digit it is, int64 [1797]."""
    return torch.from_numpy(load_digits().target.astype(np.int64))[_order()]


@cache
def _order() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).permutation(1797))


class Net(nn.Module):
    """Hidden layers and a head; gives the states of all, as of one token, the last as the digit's vector, too."""

    def __init__(self, seed: int, width: int = 24, labels: int = LABELS, layers: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.ModuleList(nn.Linear(width if place else 64, width) for place in range(layers))
            self.head = nn.Linear(width, labels)

    def forward(self, digits: Tensor) -> Outputs:
        states, seen = digits, {}
        for place, layer in enumerate(self.layer):
            states = torch.relu(layer(states))
            seen[f"layer.{place}"] = states[:, None]
        return Outputs(self.head(states), states=seen, embedding=states)


def learn(
    module: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    count: int = 100,
    *,
    steps: int = 120,
    rate: float = 2e-2,
    seed: int = 0,
    size: int = 50,
) -> nn.Module:
    """`module` after `steps` of the engine's own loop, minimising `loss_of(places)`, places in 0 ... `count` - 1."""

    def batches_of(epoch: int, drawn: int) -> list[Tensor]:
        rounds = -(-steps * size // count)
        return [batch for turn in range(rounds) for batch in shuffled(count, size, drawn + turn)][:steps]

    fit(module, batches_of, lambda places, done: loss_of(places), epochs=1, rate=rate, seed=seed, weight_decay=0.0)
    return module


@cache
def teacher(seed: int = 0, width: int = 64) -> Net:
    """A larger net that learnt the true labels of the first 700 digits."""
    net, x, y = Net(100 + seed, width), pixels()[:700], truth()[:700]
    learn(net, lambda places: nn.functional.cross_entropy(net(x[places]).logits, y[places]), 700, steps=400, rate=5e-3)
    return net.requires_grad_(False)


def said(module: nn.Module, digits: slice = HELD) -> Outputs:
    """What `module` says of the digits in `digits`, without gradients."""
    with torch.no_grad():
        return module.eval()(pixels()[digits])


def agreement(module: nn.Module, digits: slice = HELD) -> float:
    """The share of `digits` that `module` answers as the teacher does."""
    return float((said(module, digits).logits.argmax(1) == said(teacher(), digits).logits.argmax(1)).float().mean())


def each(loss_of: Callable[[Outputs, Tensor], Tensor], **settings: Any) -> tuple[float, ...]:
    """How often the students of `SEEDS` agree that learnt the 100 digits by `loss_of(outputs, places)`."""
    x = pixels()[TAUGHT]

    def one(student: Net, seed: int) -> float:
        return agreement(learn(student, lambda at: loss_of(student(x[at]), at), seed=seed, **settings))

    return tuple(one(Net(seed), seed) for seed in SEEDS)


@cache
def untaught() -> tuple[float, ...]:
    """How often students agree that learnt nothing: about a tenth."""
    return tuple(agreement(Net(seed)) for seed in SEEDS)


@cache
def answers() -> Outputs:
    """What the teacher says of the 100 digits."""
    return said(teacher(), TAUGHT)


@cache
def labels() -> Tensor:
    """The teacher's labels of the 100 digits, int64 [100]."""
    return answers().logits.argmax(1)


@cache
def by_labels_alone() -> tuple[float, ...]:
    """How often students agree that learnt the teacher's labels and nothing else of it."""
    return each(lambda said, places: nn.functional.cross_entropy(said.logits, labels()[places]))


def surely_more(after: Sequence[float], before: Sequence[float]) -> float:
    """How much more `after` is than `before` at least, both of the same seeds.

    The lower end of the 95 % t interval of the mean difference.
    """
    differences = np.subtract(after, before)
    count = len(differences)
    spread = float(t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count))
    return float(differences.mean()) - spread
