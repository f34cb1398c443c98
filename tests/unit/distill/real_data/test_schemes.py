"""Schemes on digits: each is given what it is for, and compared with learning the same answers alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.schemes.born_again import born_again, mean_answer
from stillhouse.distill.schemes.codistillation import codistil
from stillhouse.distill.schemes.deeper_layers import from_deeper_layers, pooled
from stillhouse.distill.schemes.ensembles import (
    averaged,
    by_class,
    by_confidence,
    by_validation,
    class_weights,
    validation_weights,
)
from stillhouse.distill.schemes.lesson import Lesson, direct
from stillhouse.distill.schemes.mutual import mutual
from stillhouse.distill.schemes.progressive import drop_in_steps, progressive, without_layers
from tests.unit.distill.real_data.digits import (
    HELD,
    SEEDS,
    SELECT,
    TAUGHT,
    Net,
    agreement,
    answers,
    labels,
    learn,
    pixels,
    said,
    surely_more,
    truth,
    untaught,
)


def lesson(seed: int, soft: Tensor | None = None, **changes: Any) -> Lesson:
    """The 100 digits with the teacher's labels, and `soft` answers where some are given."""
    x = pixels()[TAUGHT]
    fields = {"epochs": 30, "rate": 2e-2, "batch_size": 25, "temperature": 4.0, "seed": seed}
    return Lesson(lambda module, places: module(x[places]), labels(), soft, **(fields | changes))


def soft() -> Tensor:
    return answers().logits.softmax(dim=-1)


@cache
def alone() -> tuple[float, ...]:
    """Students that learnt the labels by themselves."""
    return tuple(agreement(_direct(Net(seed), lesson(seed))) for seed in SEEDS)


def _direct(student: Net, given: Lesson, soft: Tensor | None = None) -> Net:
    direct(student, given, soft)
    return student


def test_stored_answers_teach_more_than_labels() -> None:
    assert surely_more([agreement(_direct(Net(seed), lesson(seed, soft()))) for seed in SEEDS], alone()) > 0.01


@cache
def students_alone(seed: int) -> tuple[Net, Net]:
    """Two that learnt the labels, each by itself."""
    return _direct(Net(seed), lesson(seed)), _direct(Net(seed + 50), lesson(seed))


def alike(one: nn.Module, other: nn.Module) -> float:
    """How often two students say the same of the held digits."""
    return float((said(one).logits.argmax(1) == said(other).logits.argmax(1)).double().mean())


def apart(one: nn.Module, other: nn.Module) -> float:
    """KL of what two students say of the held digits, nats."""
    first, second = (said(student).logits.log_softmax(dim=-1) for student in (one, other))
    return float(functional.kl_div(second, first, reduction="batchmean", log_target=True))


@pytest.mark.parametrize("scheme", ["mutual", "codistillation"])
def test_peers_end_nearer_to_each_other_than_students_that_learnt_alone(scheme) -> None:
    """With 100 digits and equal peers neither scheme is shown to help; neither costs 4 points, and this holds."""
    found, together, far = [], [], []
    for seed in SEEDS:
        pair = [Net(seed), Net(seed + 50)]
        if scheme == "mutual":
            mutual(pair, lesson(seed))
        else:
            codistil(pair, lesson(seed), burn_in=5)
        found.append(agreement(pair[0]))
        together.append(alike(*pair))
        far.append(alike(*students_alone(seed)))
    assert surely_more(together, far) > 0.0
    assert surely_more(found, alone()) > -0.04
    assert surely_more(found, untaught()) > 0.7


def test_a_second_generation_is_like_the_first_and_all_together_teach_one_more() -> None:
    """On 100 digits, born-again students agree with the teacher less than the first. They learn what it answers:
    its probabilities of held digits are nearer to theirs than to those of a student that learnt alone."""
    second, one_more, near, far = [], [], [], []
    for seed in SEEDS:
        given = lesson(seed)
        generations = born_again(lambda generation, seed=seed: Net(seed + 50 * generation), given, generations=2)
        second.append(agreement(generations[1]))
        one_more.append(agreement(_direct(Net(seed + 99), given, mean_answer(generations, given))))
        near.append(apart(*generations))
        far.append(apart(generations[0], students_alone(seed)[1]))
    assert surely_more(far, near) > 0.0
    for found in (second, one_more):
        assert surely_more(found, untaught()) > 0.65


def test_an_early_exit_answers_as_the_deepest_layer() -> None:
    """The student itself is not shown to gain on these digits; its exit is what the scheme gives."""
    found, exits = [], []
    for seed in SEEDS:
        student = Net(seed)
        _, heads = from_deeper_layers(student, lesson(seed), ["layer.0"])
        found.append(agreement(student))
        held = said(student)
        with torch.no_grad():
            early = heads["layer.0"](pooled(held, "layer.0")).argmax(1)
        exits.append(float((early == held.logits.argmax(1)).double().mean()))
    assert min(exits) > 0.8
    assert surely_more(found, untaught()) > 0.7
    assert surely_more(found, alone()) > -0.05


def test_an_assistant_hands_on_what_the_teacher_says() -> None:
    def one(seed: int) -> float:
        line = [Net(seed + 50, 48), Net(seed)]
        progressive(line, lesson(seed, soft()))
        return agreement(line[1])

    assert surely_more([one(seed) for seed in SEEDS], alone()) > 0.01


def test_layers_that_are_dropped_in_steps_leave_a_student_that_still_answers() -> None:
    found, cut = [], []
    for seed in SEEDS[:3]:
        steps: list[nn.Module] = []
        given = lesson(seed, soft(), epochs=15)
        whole = Net(seed, layers=3)
        small = drop_in_steps(whole, given, "layer", [[0, 1], [0]], on_step=lambda n, m, kept=steps: kept.append(m))
        found.append(agreement(small))
        cut.append(agreement(without_layers(steps[0], "layer", [0])))
    assert surely_more(found, cut) > 0.2


POOLS = ("averaged", "confidence", "validation", "class")


@cache
def specialists() -> tuple[Net, ...]:
    """Three teachers, each of which saw 60 digits of its own and, beside these, 240 of only some labels."""

    def one(place: int) -> Net:
        net, x, y = Net(200 + place, 32), pixels(), truth()
        some = torch.arange(60 * place, 60 * place + 60)
        known = torch.isin(y[200:700], torch.tensor([(0, 1, 2, 3), (3, 4, 5, 6), (6, 7, 8, 9)][place]))
        seen = torch.cat([some, torch.arange(200, 700)[known][:240]])
        learn(net, lambda at: functional.cross_entropy(net(x[seen[at]]).logits, y[seen[at]]), len(seen), steps=150)
        return net.requires_grad_(False)

    return tuple(one(place) for place in range(3))


def _said(digits: slice) -> np.ndarray:
    return np.stack([said(one, digits).logits.softmax(dim=-1).numpy() for one in specialists()])


def _pool(how: str, table: np.ndarray) -> np.ndarray:
    known, answers_known = _said(SELECT), truth()[SELECT].numpy()
    match how:
        case "averaged":
            return averaged(table)
        case "confidence":
            return by_confidence(table)
        case "validation":
            return by_validation(table, validation_weights(known, answers_known))
        case _:
            return by_class(table, class_weights(known, answers_known))


@pytest.mark.parametrize("how", POOLS)
def test_many_teachers_know_more_than_one_and_so_does_their_student(how) -> None:
    right = truth()[HELD].numpy()
    table = _said(HELD)
    single = (table.argmax(axis=2) == right).mean(axis=1)
    pooled_right = (_pool(how, table).argmax(axis=1) == right).mean()
    assert pooled_right > single.max() + 0.02

    def student_of(soft: np.ndarray, seed: int) -> float:
        told = torch.from_numpy(soft.astype(np.float32))
        x = pixels()[TAUGHT]
        student = Net(seed)
        direct(
            student,
            Lesson(lambda m, at: m(x[at]), told.argmax(1), told, epochs=30, rate=2e-2, batch_size=25, seed=seed),
        )
        return float((said(student).logits.argmax(1).numpy() == right).mean())

    taught = _said(TAUGHT)
    best = taught[int(single.argmax())]
    of_pool, of_best = [], []
    for seed in SEEDS:
        of_pool.append(student_of(_pool(how, taught), seed))
        of_best.append(student_of(best, seed))
    assert surely_more(of_pool, of_best) > 0.0
