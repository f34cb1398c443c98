"""What a student learns from inside of its teacher, on digits.

Compared with the same student at weight 0. Where the term is read through a projection, this learns there, too: what
differs is that the student is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.features.hidden_states import hidden_cosine, hidden_mse
from stillhouse.distill.features.layer_map import last, searched, uniform
from stillhouse.distill.features.projection import Projection
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import Recipe
from stillhouse.tasks.distillation import AnyTerm, AttentionTransfer, HardLabels, SelfAttention
from tests.unit.distill.real_data import rows
from tests.unit.distill.real_data.digits import HELD, SEEDS, TAUGHT, Net, learn, pixels, surely_more, truth

LAYERS = 4


@cache
def deep() -> Net:
    """A teacher of twice as many layers as its students."""
    net, x, y = Net(100, 64, layers=LAYERS), pixels()[:700], truth()[:700]
    learn(net, lambda at: functional.cross_entropy(net(x[at]).logits, y[at]), 700, steps=400, rate=5e-3)
    return net.requires_grad_(False)


def searched_map() -> tuple[int, ...]:
    """The map between what a student that learnt by labels alone is like and the teacher."""
    ours, theirs = taught_alone()(pixels()[TAUGHT]), deep()(pixels()[TAUGHT])
    return searched(*([states[:, 0] for states in one.states.values()] for one in (ours, theirs)))


@cache
def taught_alone() -> Net:
    student, x = Net(SEEDS[-1] + 1), pixels()[TAUGHT]
    hard = deep()(x).logits.argmax(1)
    learn(student, lambda at: functional.cross_entropy(student(x[at]).logits, hard[at]))
    return student.requires_grad_(False)


@cache
def taught(
    measure: Callable[..., Tensor], layers: tuple[int, ...], weight: float, width: int = 24
) -> tuple[list[float], list[float]]:
    """How often students agree with their teacher, and their distance by `measure`, both on held digits, by seed.

    Students as wide as their teacher are compared without a projection.
    """
    agreed, apart = [], []
    x, held, theirs = pixels()[TAUGHT], pixels()[HELD], deep()(pixels()[TAUGHT])

    def distance(student: Net, maps: nn.ModuleList, digits: Tensor, wanted: Outputs) -> tuple[Outputs, Tensor]:
        said, total = student(digits), torch.zeros(())
        for place, layer in enumerate(layers):
            if layer:
                states = said.states[f"layer.{place}"]
                ours = maps[place](states if weight else states.detach())
                total = total + measure(ours, wanted.states[f"layer.{layer - 1}"])
        return said, total

    def one(seed: int) -> None:
        student = Net(seed, width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            maps = nn.ModuleList(Projection(width, 64) if width < 64 else nn.Identity() for _ in layers)

        def loss_of(at: Tensor) -> Tensor:
            wanted = Outputs(states={path: states[at] for path, states in theirs.states.items()})
            said, total = distance(student, maps, x[at], wanted)
            return functional.cross_entropy(said.logits, theirs.logits.argmax(1)[at]) + (weight or 1.0) * total

        learn(nn.ModuleList([student, maps]), loss_of, seed=seed)
        with torch.no_grad():
            said, total = distance(student, maps, held, deep()(held))
        agreed.append(float((said.logits.argmax(1) == deep()(held).logits.argmax(1)).double().mean()))
        apart.append(float(total))

    for seed in SEEDS:
        one(seed)
    return agreed, apart


@pytest.mark.parametrize("layers", ["uniform", "searched"])
def test_hidden_states_of_mapped_layers_help(layers) -> None:
    chosen = uniform(2, LAYERS) if layers == "uniform" else searched_map()
    assert len(chosen) == 2
    assert 0 < chosen[0] < chosen[1] <= LAYERS
    with_it, without = taught(hidden_mse, chosen, 0.3), taught(hidden_mse, chosen, 0.0)
    assert surely_more(with_it[0], without[0]) > 0.0
    assert np.mean(with_it[1]) < 0.7 * np.mean(without[1])


@pytest.mark.parametrize(("measure", "weight", "width"), [(hidden_mse, 0.3, 24), (hidden_cosine, 3.0, 64)])
def test_the_last_layer_becomes_the_teachers(measure, weight, width) -> None:
    """Where the last layer alone is taught, neither is shown to help beside labels on these digits. What holds: held
    states come nearer than without it, through a projection or without one, and answers stay as good to 3 points."""
    with_it, without = (taught(measure, last(2, LAYERS), share, width) for share in (weight, 0.0))
    assert np.mean(with_it[1]) < 0.7 * np.mean(without[1])
    assert surely_more(without[1], with_it[1]) > 0.0
    assert surely_more(with_it[0], without[0]) > -0.03


TOP = {"student": "layer.1", "teacher": "layer.1"}
ATTENTION: dict[str, AnyTerm] = {
    "attention transfer": AttentionTransfer(weight=100.0, **TOP),
    "attention": SelfAttention(parts=("attention",), **TOP),
    "attention and values": SelfAttention(heads=rows.HEADS, **TOP),
    "queries, keys and values": SelfAttention(weight=0.3, parts=("queries", "keys", "values"), heads=rows.HEADS, **TOP),
}


@cache
def read_by(name: str | None) -> tuple[list[float], list[rows.Rows]]:
    """How often transformers on rows agree that learnt by labels and one term (None: none), and these."""
    terms = [HardLabels(), *([ATTENTION[name]] if name else [])]
    x, theirs = pixels()[TAUGHT], rows.answers()

    def one(seed: int) -> rows.Rows:
        student = rows.Rows(seed)
        recipe = Recipe(terms, rows.read(student, x[:2]), rows.of_places(theirs, torch.arange(2)))
        hard = theirs.logits.argmax(1)
        learn(
            student,
            lambda at: recipe(rows.read(student, x[at]), rows.of_places(theirs, at), hard[at]),
            steps=60,
            rate=1e-2,
            seed=seed,
        )
        return student

    students = [one(seed) for seed in rows.SEEDS]
    return [rows.agreement(student) for student in students], students


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_becomes_the_teachers(name) -> None:
    """Beside labels none of them is shown to help digits read by rows, so what is asserted is that the term gets small
    on held digits, smaller than without it, while students still learn to answer."""
    students = [read_by(which)[1] for which in (name, None)]  # first: learning takes gradients
    with torch.no_grad():
        theirs = rows.read(rows.teacher(), pixels()[HELD])
        recipe, hard = Recipe([ATTENTION[name]], theirs, theirs), theirs.logits.argmax(1)
        with_it, without = (
            [float(recipe(rows.read(student, pixels()[HELD]), theirs, hard)) for student in some] for some in students
        )
    assert np.mean(with_it) < 0.7 * np.mean(without)
    assert surely_more(without, with_it) > 0.0
    assert min(read_by(name)[0]) > 0.4
    assert np.mean(read_by(name)[0]) > np.mean(read_by(None)[0]) - 0.1
