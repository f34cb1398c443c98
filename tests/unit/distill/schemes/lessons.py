"""Lessons for schemes: the toy texts as bags of words, and a small network with two layers that answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stillhouse.distill.outputs import Outputs
from stillhouse.distill.schemes.lesson import Lesson
from tests.unit.distill.toy import LABELS, texts

_LEARN, _TEST = texts(240), texts(200, seed=1)
_WORDS = sorted({word for text in _LEARN for word in text.text.split()})


def _bags(of: list) -> Tensor:
    return torch.tensor([[float(text.text.split().count(word)) for word in _WORDS] for text in of])


def _answers(of: list) -> Tensor:
    return torch.tensor([LABELS.index(text.label) for text in of])


BAGS, HARD = _bags(_LEARN), _answers(_LEARN)
SOFT = torch.full((len(HARD), 3), 0.05).scatter(1, HARD[:, None], 0.9)
_NOISE = torch.Generator().manual_seed(0)
# Every third label is drawn anew: something for students to help each other with.
NOISY = torch.where(torch.arange(len(HARD)) % 3 == 0, torch.randint(3, HARD.shape, generator=_NOISE), HARD)
TEST_BAGS, TEST_HARD = _bags(_TEST), _answers(_TEST)


class Net(nn.Module):
    """Words, two layers, a head; gives the states of both layers as of one token."""

    def __init__(self, seed: int, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.ModuleList([nn.Linear(len(_WORDS), width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 3)

    def forward(self, bags: Tensor) -> Outputs:
        states, seen = bags, {}
        for place, layer in enumerate(self.layer):
            states = torch.tanh(layer(states))
            seen[f"layer.{place}"] = states[:, None]
        return Outputs(self.head(states), states=seen, embedding=states)


def says(module: nn.Module, places: Tensor) -> Outputs:
    """What schemes are given: the module's outputs for the toy texts at `places`."""
    return module(BAGS[places])


def lesson(**changes) -> Lesson:
    """The toy lesson: 240 texts, 8 epochs."""
    fields = {"says": says, "hard": HARD, "soft": SOFT, "epochs": 8, "rate": 0.02, "batch_size": 16}
    return Lesson(**(fields | changes))


def agreement(module: nn.Module) -> float:
    """The share of 200 other texts that `module` answers right."""
    with torch.no_grad():
        return float((module.eval()(TEST_BAGS).logits.argmax(1) == TEST_HARD).float().mean())


def said(module: nn.Module) -> Tensor:
    """What `module` answers to the 200 other texts."""
    with torch.no_grad():
        return module.eval()(TEST_BAGS).logits
