"""Objectives of students that write, on characters of real sentences.

The teacher predicts the next character from the last 6, its students from the last 3; both learnt or are taught on
sentences of documentation, and are judged on others.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.objectives.divergence import divergence
from stillhouse.distill.objectives.minillm import minillm_loss
from stillhouse.distill.objectives.tokens import log_probabilities, mean_over_tokens
from stillhouse.distill.objectives.top_k import keep, top_k_kl
from tests.unit.distill.real_data.digits import learn, surely_more
from tests.unit.distill.real_data.texts import HELD, TAUGHT, sentences

CHARACTERS = string.ascii_lowercase + " "
V, SEES, STEP = len(CHARACTERS), 6, 4
SEEDS = (0, 1, 2)


class Writer(nn.Module):
    """Log-probabilities of the next character [..., V] after the last `reads` of 6, int64 [..., 6]."""

    def __init__(self, seed: int, reads: int, width: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table, self.reads = nn.Embedding(V, 16), reads
            self.inner, self.head = nn.Linear(16 * reads, width), nn.Linear(width, V)

    def forward(self, before: Tensor) -> Tensor:
        states = self.table(before[..., -self.reads :]).flatten(-2)
        return log_probabilities(self.head(torch.relu(self.inner(states))))


@cache
def windows(start: int, stop: int) -> tuple[Tensor, Tensor]:
    """6 characters [n, 6] and the next [n] of all places of some sentences."""
    text = " ".join(text for text, _ in sentences()[start:stop]).lower()
    codes = torch.tensor([CHARACTERS.index(one) for one in text if one in CHARACTERS])
    every = codes.unfold(0, SEES + 1, 1)
    return every[:, :SEES], every[:, SEES]


@cache
def teacher() -> Writer:
    before, after = windows(0, 700)
    net = Writer(100, SEES, 128)
    learn(
        net,
        lambda at: functional.nll_loss(net(before[at]), after[at]),
        40_000,
        steps=300,
        size=256,
        rate=5e-3,
    )
    return net.requires_grad_(False)


def _seen(some: slice, count: int) -> tuple[Tensor, Tensor]:
    before = windows(some.start, some.stop)[0][::3][:count]
    return before, teacher()(before)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    name: lambda p, q, name=name: divergence(name, p, q, beta=0.5, skew=0.1)
    for name in ("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl")
} | {"top_k": lambda p, q: top_k_kl(keep(p, 5), q)}


def apart(student: Writer) -> tuple[float, float]:
    """How often the likeliest character is not the teacher's on held sentences, and KL(student || teacher) there."""
    before, p = _seen(HELD, 3000)
    with torch.no_grad():
        q = student(before)
    return float((p.argmax(-1) != q.argmax(-1)).double().mean()), float((q.exp() * (q - p)).sum(-1).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_the_next_character_becomes_the_teachers(name) -> None:
    before, p = _seen(TAUGHT, 4000)
    untaught, taught = [], []
    for seed in SEEDS:
        student = Writer(seed, 3, 32)
        untaught.append(apart(student)[0])

        def loss_of(at: Tensor, student: Writer = student) -> Tensor:
            losses = LOSSES[name](p[at], student(before[at]))
            return mean_over_tokens(losses[None], torch.ones(1, len(at), dtype=torch.bool))

        learn(student, loss_of, len(before), steps=100, size=128, seed=seed)
        taught.append(apart(student)[0])
    assert surely_more(untaught, taught) > 0.2


def test_answers_that_students_draw_come_near_to_what_the_teacher_would_say() -> None:
    """MiniLLM on 4 characters that the student drew itself: the reverse divergence on held sentences falls."""
    starts, _ = _seen(TAUGHT, 2000)
    after, before = [], []
    for seed in SEEDS:
        student = Writer(seed, 3, 32)
        before.append(apart(student)[1])
        generator = torch.Generator().manual_seed(seed)

        def loss_of(at: Tensor, student: Writer = student, generator: torch.Generator = generator) -> Tensor:
            context, contexts, drawn = starts[at], [], []
            with torch.no_grad():
                for _ in range(STEP):
                    token = torch.multinomial(student(context).exp(), 1, generator=generator)
                    contexts.append(context)
                    drawn.append(token)
                    context = torch.cat([context[:, 1:], token], dim=1)
            seen, tokens = torch.stack(contexts, dim=1), torch.cat(drawn, dim=1)
            return minillm_loss(teacher()(seen), student(seen), tokens, torch.ones_like(tokens, dtype=torch.bool))

        learn(student, loss_of, len(starts), steps=60, size=64, seed=seed)
        after.append(apart(student)[1])
    assert surely_more(before, after) > 0.3
