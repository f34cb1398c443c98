"""What is made of texts: deterministic, labelled as the teacher labels it, and never empty."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from torch.nn import functional

from stillhouse.distill.augmentation.mixup import mixed_soft_target_loss, mixed_up
from stillhouse.distill.augmentation.paraphrase import paraphrased
from stillhouse.distill.augmentation.token_dropout import drop_tokens, drop_words
from stillhouse.distill.augmentation.unlabelled import labelled_by_teacher
from stillhouse.distill.data import LabelledText
from stillhouse.distill.fitting import fit, shuffled
from stillhouse.distill.response.soft_targets import soft_target_loss
from tests.unit.distill.schemes.lessons import BAGS, HARD, SOFT, Net, agreement


def test_tokens_are_dropped_at_the_rate_asked_for_and_special_ones_stay() -> None:
    random = np.random.default_rng(0)
    ids = np.array([101, *range(1, 9), 102])
    kept = [drop_tokens(ids, 0.25, random, keep=(101, 102)) for _ in range(2000)]
    assert np.mean([len(one) - 2 for one in kept]) == pytest.approx(6.0, abs=0.1)
    assert all(one[0] == 101 and one[-1] == 102 for one in kept)
    assert all(np.isin(one, ids).all() and (np.diff(one[:-1]) != 0).all() for one in kept)
    states = np.arange(12.0).reshape(4, 3)
    assert drop_tokens(states, 0.9, random).shape[1] == 3


def test_something_is_always_left() -> None:
    random = np.random.default_rng(0)
    assert all(drop_words("one two", 0.99, random) in ("one", "two", "one two") for _ in range(50))
    assert drop_words("  ", 0.5, random) == "  "
    with pytest.raises(ValueError, match="share of 1 cannot"):
        drop_words("a", 1.0, random)


def test_mixed_rows_lie_between_two_and_their_answers_as_far() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, soft = torch.randn(64, 5), functional.one_hot(torch.arange(64) % 4, 4).float()
    mixed, targets = mixed_up(vectors, soft, 0.4, generator)
    assert torch.allclose(targets.sum(1), torch.ones(64))
    own = (targets * soft).sum(1)
    assert (own >= 0.5 - 1e-6).all()
    for row in range(64):
        away = mixed[row] - own[row] * vectors[row]
        others = [
            torch.allclose(away, (1 - own[row]) * vectors[place], atol=1e-4)
            for place in range(64)
            if place != row and torch.allclose(targets[row], own[row] * soft[row] + (1 - own[row]) * soft[place])
        ]
        assert any(others) or torch.allclose(targets[row], soft[row])


def test_its_shares_are_betas() -> None:
    """E of max(lambda, 1 - lambda) is 3/4 where lambda is uniform, and near 1 where the concentration is near 0."""
    vectors, soft = torch.eye(2).repeat(4000, 1), torch.eye(2).repeat(4000, 1)

    def mean_share(concentration: float) -> float:
        mixed, _ = mixed_up(vectors, soft, concentration, torch.Generator().manual_seed(1))
        share = mixed.max(dim=1).values
        return float(share[share < 1 - 1e-6].mean())  # those mixed with a like row say nothing

    assert mean_share(1.0) == pytest.approx(0.75, abs=0.01)
    with pytest.raises(ValueError, match=r"Beta\(0, 0\)"):
        mixed_up(vectors, soft, 0.0, torch.Generator())
    with pytest.raises(ValueError, match="2 vectors and 3 targets"):
        mixed_up(torch.zeros(2, 2), torch.zeros(3, 2), 1.0, torch.Generator())


def test_the_loss_of_rows_mixed_with_themselves_is_that_of_soft_targets() -> None:
    torch.manual_seed(0)
    head, x = torch.nn.Linear(5, 3), torch.randn(1, 5).expand(4, 5)
    soft, hard = torch.randn(1, 3).softmax(dim=1).expand(4, 3), torch.ones(4, dtype=torch.int64)
    alpha, weight = torch.full((4,), 0.3), torch.full((4,), 2.0)
    for told in ((2.0, 0.3, None), (2.0, alpha, weight)):
        mixed = mixed_soft_target_loss(head, head, (x,), soft, hard, *told, 0.4)
        plain = soft_target_loss(head(x), soft, hard, *told)
        assert mixed.item() == pytest.approx(plain.item(), abs=1e-6)
    assert not head._forward_pre_hooks


def test_the_loss_of_mixed_rows_is_its_formula_and_its_gradient_flows() -> None:
    torch.manual_seed(0)
    head, x = torch.nn.Linear(4, 3).double(), torch.randn(6, 4, dtype=torch.float64)
    soft, hard = torch.randn(6, 3, dtype=torch.float64).softmax(dim=1), torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(vectors):
        torch.manual_seed(7)
        return mixed_soft_target_loss(head, head, (vectors,), soft, hard, 2.0, 0.2, None, 0.4)

    torch.manual_seed(7)
    onehot = functional.one_hot(hard, 3).double()
    vectors, both = mixed_up(x, torch.cat([soft, onehot], dim=1), 0.4, torch.default_generator)
    said = head(vectors)
    soft_at_2 = both[:, :3].sqrt() / both[:, :3].sqrt().sum(dim=1, keepdim=True)
    divergence = (soft_at_2 * (soft_at_2.log() - (said / 2).log_softmax(dim=1))).sum(dim=1)
    entropy = -(both[:, 3:] * said.log_softmax(dim=1)).sum(dim=1)
    assert loss(x).item() == pytest.approx((0.2 * entropy + 0.8 * 4 * divergence).mean().item(), abs=1e-9)
    assert torch.autograd.gradcheck(loss, (x.clone().requires_grad_(),))


def test_a_student_learns_from_mixed_and_thinned_texts() -> None:
    for augment in ("mixup", "dropout"):
        student, generator = Net(0), torch.Generator().manual_seed(0)

        def loss_of(places, done, student=student, generator=generator, augment=augment):
            bags, soft = BAGS[places], SOFT[places]
            if augment == "mixup":
                bags, soft = mixed_up(bags, soft, 0.4, generator)
            else:
                bags = bags * (torch.rand(bags.shape, generator=generator) > 0.1)
            return functional.cross_entropy(student(bags).logits, soft)

        fit(student, lambda epoch, seed: shuffled(len(HARD), 16, seed), loss_of, epochs=8, rate=0.02, seed=0)
        assert agreement(student) > 0.9


ORDER = LabelledText("where is my order", "order_status", weight=2.0)


class StandIn:
    """Stands for a teacher that writes: says what it is told to, in turn, and knows the label of texts about orders."""

    def __init__(self, *said: str) -> None:
        self.said, self.prompts = list(said), []

    async def ask(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.said.pop(0)

    async def label(self, text: str) -> LabelledText:
        label = "order_status" if "order" in text or "parcel" in text else "other"
        return LabelledText(text, label, {label: 0.8})


def test_a_paraphrase_that_the_teacher_answers_alike_is_kept_with_its_new_answer() -> None:
    teacher = StandIn(" where has my parcel got to ")
    made = asyncio.run(paraphrased([ORDER], teacher.ask, teacher.label))
    assert made.texts == [LabelledText("where has my parcel got to", "order_status", {"order_status": 0.8}, 2.0)]
    assert (made.asked, made.labelled, made.unchanged) == (1, 1, 0)
    assert "where is my order" in teacher.prompts[0]


def test_one_that_is_answered_otherwise_backs_off_and_the_text_stays_in_the_end() -> None:
    teacher = StandIn("what is the weather", "where is that order")
    made = asyncio.run(paraphrased([ORDER], teacher.ask, teacher.label))
    assert [text.text for text in made.texts] == ["where is that order"]
    assert (made.asked, made.labelled) == (2, 2)
    assert teacher.prompts[0] != teacher.prompts[1]
    teacher = StandIn("", "Where is my ORDER")  # nothing, and the same again: neither is asked about
    made = asyncio.run(paraphrased([ORDER], teacher.ask, teacher.label))
    assert (made.texts, made.asked, made.labelled, made.unchanged) == ([], 2, 0, 1)


def test_errors_of_the_teacher_come_through() -> None:
    async def broken(prompt: str) -> str:
        raise RuntimeError("no teacher")

    with pytest.raises(RuntimeError, match="no teacher"):
        asyncio.run(paraphrased([ORDER], broken, StandIn().label))


def test_unlabelled_texts_are_asked_once_and_never_what_judges() -> None:
    asked: list[str] = []

    def teacher(texts):
        asked.extend(texts)
        return [LabelledText(text, "a", {"a": 0.6 if "sure" in text else 0.4}) for text in texts]

    found = labelled_by_teacher(
        ["sure of this one", "Sure of  this one", "hardly known at all", "this is in the test set", ""],
        teacher,
        known=["this is in the test set!"],
        least_confidence=0.5,
        weight=0.5,
    )
    assert asked == ["sure of this one", "hardly known at all"]
    assert found.texts == [LabelledText("sure of this one", "a", {"a": 0.6}, 0.5)]
    assert (found.asked, found.repeated, found.unsure) == (2, 3, 1)
    with pytest.raises(ValueError, match="0 answers to 1 texts"):
        labelled_by_teacher(["x"], lambda texts: [], known=())
