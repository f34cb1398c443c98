"""Which digits teach, in which order, mixed or not, and what a student keeps of what it knew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.augmentation.mixup import mixed_up
from stillhouse.distill.curriculum import Curriculum, by_loss, by_teacher_confidence
from stillhouse.distill.data import LabelledText
from stillhouse.distill.fitting import fit
from stillhouse.distill.quantisation_aware import rounded, train_rounded
from stillhouse.distill.replay import kl_to_previous, probe, replayed
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.distill.schedules import Schedule
from stillhouse.distill.selection import badge, certainty, k_centre, least_sure, margins
from tests.unit.distill.real_data.digits import (
    HELD,
    SEEDS,
    TAUGHT,
    Net,
    agreement,
    answers,
    by_labels_alone,
    labels,
    learn,
    pixels,
    said,
    surely_more,
    teacher,
    untaught,
)

POOL, BEGIN, ASKED = slice(200, 600), 30, 40


def _learnt(seed: int, places: np.ndarray) -> Net:
    """A student of the teacher's labels of the digits at `places` of the pool."""
    x = pixels()[POOL][places]
    hard, student = said(teacher(), POOL).logits.argmax(1)[places], Net(seed)
    learn(
        student,
        lambda at: functional.cross_entropy(student(x[at]).logits, hard[at]),
        len(places),
        size=min(35, len(places)),
        seed=seed,
    )
    return student


def _chosen(how: str, student: Net, known: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    outputs = said(student, POOL)
    shares = outputs.logits.softmax(dim=-1).numpy()[others]
    assert outputs.embedding is not None
    vectors = outputs.embedding.numpy()
    match how:
        case "margin":
            return least_sure(margins(shares), ASKED)
        case "entropy":
            return least_sure(certainty(shares), ASKED)
        case "k-centre":
            return k_centre(vectors[others], ASKED, vectors[known])
        case "badge":
            return badge(shares, vectors[others], ASKED, seed)
        case _:
            return np.random.default_rng(seed).choice(len(others), ASKED, replace=False)


@pytest.mark.parametrize("how", ["margin", "entropy", "k-centre", "badge"])
def test_digits_that_are_asked_about_teach(how) -> None:
    """40 chosen answers beside 30 known ones teach much more than the 30. That they teach more than 40 drawn at random
    is not shown with so few: the mean over starts is no more than 5 points below."""
    before, after, drawn = [], [], []
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(400)
        known, others = order[:BEGIN], order[BEGIN:]
        student = _learnt(seed, known)
        before.append(agreement(student))
        for found, which in ((after, how), (drawn, "random")):
            chosen = others[_chosen(which, student, known, others, seed)]
            found.append(agreement(_learnt(seed, np.concatenate([known, chosen]))))
    assert surely_more(after, before) > 0.02
    assert np.mean(after) > np.mean(drawn) - 0.05


def soft() -> Tensor:
    return answers().logits.softmax(dim=-1)


@pytest.mark.parametrize("difficulty", ["confidence", "loss"])
def test_easy_digits_first_teach_too(difficulty) -> None:
    """Not shown to help here: by the teacher's confidence up to 5 points are lost, by a reference's loss up to 12."""
    if difficulty == "confidence":
        hard = by_teacher_confidence(soft().numpy())
    else:
        reference, hundred = Net(7), pixels()[TAUGHT]
        learn(reference, lambda at: functional.cross_entropy(reference(hundred[at]).logits, labels()[at]), steps=40)
        hard = by_loss(said(reference, TAUGHT).logits.numpy(), labels().numpy())
    curriculum, x = Curriculum.of(hard, start=0.3), pixels()[TAUGHT]

    def one(seed: int) -> float:
        student = Net(seed)
        fit(
            student,
            lambda epoch, drawn: [torch.from_numpy(part) for part in curriculum.batches(epoch / 30, 25, drawn)],
            lambda at, done: functional.cross_entropy(student(x[at]).logits, labels()[at]),
            epochs=30,
            rate=2e-2,
            seed=seed,
            weight_decay=0.0,
        )
        return agreement(student)

    found = [one(seed) for seed in SEEDS]
    assert surely_more(found, untaught()) > 0.5
    assert surely_more(found, by_labels_alone()) > (-0.05 if difficulty == "confidence" else -0.12)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_moving_temperature_and_alpha_teach_more_than_labels(shape) -> None:
    temperature, alpha = Schedule(6.0, 2.0, shape), Schedule(0.0, 0.4, shape)
    x = pixels()[TAUGHT]

    def one(seed: int) -> float:
        student = Net(seed)
        fit(
            student,
            lambda epoch, drawn: [torch.arange(start, start + 25) for start in range(0, 100, 25)],
            lambda at, done: soft_target_loss(
                student(x[at]).logits, soft()[at], labels()[at], temperature.at(done), alpha.at(done)
            ),
            epochs=30,
            rate=2e-2,
            seed=seed,
            weight_decay=0.0,
        )
        return agreement(student)

    assert surely_more([one(seed) for seed in SEEDS], by_labels_alone()) > 0.01


def test_mixed_digits_teach_more_than_the_digits_alone() -> None:
    x, generator = pixels()[TAUGHT], torch.Generator()

    def one(seed: int) -> float:
        student = Net(seed)
        generator.manual_seed(seed)

        def loss_of(at: Tensor) -> Tensor:
            mixed, wanted = mixed_up(x[at], soft()[at], 0.4, generator)
            return functional.cross_entropy(student(mixed).logits, wanted)

        return agreement(learn(student, loss_of, seed=seed))

    found = [one(seed) for seed in SEEDS]
    assert surely_more(found, by_labels_alone()) > 0.01


LEVELS = 2  # far coarser than int8, so that there is something to mend


def test_learning_with_rounding_mends_what_rounding_did() -> None:
    x, y, held = pixels()[TAUGHT], labels(), []
    for seed in SEEDS:
        student = Net(seed)
        learn(student, lambda at, net=student: functional.cross_entropy(net(x[at]).logits, y[at]), seed=seed)
        with rounded(student, LEVELS):
            before = agreement(student)
        train_rounded(
            student.train(),
            [((x,), y)] * 100,
            lambda outputs, wanted: functional.cross_entropy(outputs.logits, wanted),
            learning_rate=3e-3,
            levels=LEVELS,
        )
        with rounded(student, LEVELS):
            held.append((agreement(student), before))
    after, before_ = zip(*held, strict=True)
    assert surely_more(after, before_) > 0.01


def test_replay_and_the_tie_keep_what_a_student_knew() -> None:
    """First digits 0 to 4, then 5 to 9: without either, the first are forgotten; probes say so."""
    x, y = pixels()[slice(200, 600)], said(teacher(), slice(200, 600)).logits.argmax(1)
    old, new = torch.arange(400)[y < 5], torch.arange(400)[y >= 5][:80]
    held = said(teacher(), HELD).logits.argmax(1)
    suite = [LabelledText(str(place), str(int(held[place]))) for place in range(500) if held[place] < 5]
    kept: dict[str, list[float]] = {"alone": [], "replayed": [], "tied": []}
    forgot: dict[str, list[float]] = {name: [] for name in kept}
    for seed in SEEDS[:3]:
        first = Net(seed)
        learn(
            first,
            lambda at, net=first: functional.cross_entropy(net(x[old[at]]).logits, y[old[at]]),
            len(old),
            seed=seed,
        )
        texts = [LabelledText(str(int(place)), str(int(y[place]))) for place in old]
        again = torch.tensor([int(text.text) for text in replayed(texts, 30, seed)])
        for name in kept:
            student = Net(seed)
            student.load_state_dict(first.state_dict())
            seen = torch.cat([new, again]) if name == "replayed" else new

            with torch.no_grad():
                past = first(x[again]).logits if name == "tied" else None

            def loss_of(
                at: Tensor,
                net: nn.Module = student,
                seen: Tensor = seen,
                again: Tensor = again,
                past: Tensor | None = past,
            ) -> Tensor:
                loss = functional.cross_entropy(net(x[seen[at]]).logits, y[seen[at]])
                return loss if past is None else loss + kl_to_previous(net(x[again]).logits, past)

            learn(student, loss_of, len(seen), seed=seed, steps=60)

            def asked(net: Net) -> object:
                said_ = said(net).logits.argmax(1)
                return lambda places: [str(int(said_[int(place)])) for place in places]

            [found] = probe({"0 to 4": suite}, asked(first), asked(student))
            kept[name].append(found.after)
            forgot[name].append(found.p_forgot)
    assert max(forgot["alone"]) < 1e-6
    for name in ("replayed", "tied"):
        assert surely_more(kept[name], kept["alone"]) > 0.2
