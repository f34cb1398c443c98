"""Digits read row by row: small transformers whose hidden states and attention can be taught.

A digit is a text of 8 tokens, each a row of 8 pixels. The teacher has 2 layers of width 32, its students 2 of width 16.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.features.capture import capture
from stillhouse.distill.outputs import Outputs
from tests.unit.distill.real_data.digits import HELD, LABELS, TAUGHT, learn, pixels, truth

HEADS = 2
SEEDS = (0, 1, 2)


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed states [B, n, width] and the maps [B, heads, n, n]."""
        texts, tokens, width = states.shape
        q, k, v = (
            part(states).view(texts, tokens, HEADS, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        maps = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // HEADS), dim=-1)
        return (maps @ v).transpose(1, 2).reshape(texts, tokens, width), maps


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width), "output": nn.Linear(width, width)})
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, states: Tensor) -> Tensor:
        mixed, _ = self.attention["self"](states)
        states = self.first(states + self.attention["output"](mixed))
        return self.second(states + self.outer(functional.relu(self.inner(states))))


class Rows(nn.Module):
    """Transformer layers on the rows of a digit, and a head on their mean state."""

    def __init__(self, seed: int, layers: int = 2, width: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.rows = nn.Linear(8, width)
            self.places = nn.Parameter(torch.randn(8, width))
            self.layer = nn.ModuleList(Layer(width) for _ in range(layers))
            self.head = nn.Linear(width, LABELS)

    def forward(self, digits: Tensor) -> Tensor:
        """Logits [B, 10] of digits [B, 64]."""
        states = self.rows(digits.view(-1, 8, 8)) + self.places
        for layer in self.layer:
            states = layer(states)
        return self.head(states.mean(dim=1))


def read(module: Rows, digits: Tensor) -> Outputs:
    """What `module` says, with the states of its layers and of queries, keys and values, and its attention."""
    layers = [f"layer.{place}" for place in range(len(module.layer))]
    parts = [f"{layer}.attention.self.{part}" for layer in layers for part in ("query", "key", "value")]
    with capture(module, [*layers, *parts], attention=[f"{layer}.attention.self" for layer in layers]) as captured:
        logits = module(digits)
    return Outputs(logits, captured.outputs, captured.attention)


@cache
def teacher() -> Rows:
    """Two layers that learnt the true labels of the first 700 digits."""
    net, x, y = Rows(100, width=32), pixels()[:700], truth()[:700]
    learn(net, lambda at: functional.cross_entropy(net(x[at]), y[at]), 700, steps=200, rate=1e-2)
    return net.requires_grad_(False).eval()


@cache
def answers() -> Outputs:
    """What the teacher says of the 100 digits that its students learn from."""
    net = teacher()
    with torch.no_grad():
        return read(net, pixels()[TAUGHT])


def of_places(outputs: Outputs, places: Tensor) -> Outputs:
    return Outputs(
        None if outputs.logits is None else outputs.logits[places],
        {path: states[places] for path, states in outputs.states.items()},
        {path: maps[places] for path, maps in outputs.attention.items()},
    )


def agreement(module: Rows) -> float:
    """The share of the held digits that `module` answers as the teacher does."""
    with torch.no_grad():
        ours, theirs = module.eval()(pixels()[HELD]), teacher()(pixels()[HELD])
    return float((ours.argmax(1) == theirs.argmax(1)).double().mean())
