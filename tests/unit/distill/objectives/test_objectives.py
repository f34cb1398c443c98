"""Objectives against sums written out by hand, against TRL, and against what theory says of every distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.distill.objectives.divergence import divergence
from stillhouse.distill.objectives.forward_kl import forward_kl
from stillhouse.distill.objectives.jsd import generalised_jsd
from stillhouse.distill.objectives.minillm import minillm_loss
from stillhouse.distill.objectives.reverse_kl import reverse_kl
from stillhouse.distill.objectives.skew_kl import skew_kl, skew_reverse_kl
from stillhouse.distill.objectives.tokens import log_probabilities, mean_over_tokens
from stillhouse.distill.objectives.top_k import keep, merged, top_k_kl

P, Q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Log-probabilities of random distributions, some of them nearly certain."""
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(4 * torch.randn(*shape, generator=generator), dim=-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (forward_kl, kl(P, Q)),
        (reverse_kl, kl(Q, P)),
        (lambda p, q: generalised_jsd(p, q, 0.0), kl(P, Q)),
        (lambda p, q: generalised_jsd(p, q, 1.0), kl(Q, P)),
        (
            lambda p, q: generalised_jsd(p, q, 0.3),
            0.3 * kl(P, 0.3 * P + 0.7 * Q) + 0.7 * kl(Q, 0.3 * P + 0.7 * Q),
        ),
        (lambda p, q: skew_kl(p, q, 0.1), kl(P, 0.1 * P + 0.9 * Q)),
        (lambda p, q: skew_reverse_kl(p, q, 0.1), kl(Q, 0.1 * Q + 0.9 * P)),
    ],
)
def test_closed_forms(objective, expected) -> None:
    assert objective(P.log(), Q.log()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_jsd_and_both_kls_are_trls(beta: float, temperature: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    generator = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(4, 7, 50, generator=generator) for _ in range(2))
    labels = torch.randint(0, 50, (4, 7), generator=generator)
    labels[:, :3] = -100
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta, temperature=temperature)
    p, q = log_probabilities(teacher, temperature), log_probabilities(student, temperature)
    ours = mean_over_tokens(generalised_jsd(p, q, beta), labels != -100)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    if beta == 1.0:
        assert mean_over_tokens(reverse_kl(p, q), labels != -100).item() == pytest.approx(theirs.item(), abs=1e-5)


@given(SEEDS, st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_divergences_are_0_where_nothing_differs_and_within_their_bounds(seed: int, share: float) -> None:
    p, q = drawn(seed, 5, 30), drawn(seed ^ 1, 5, 30)
    for objective in (forward_kl, reverse_kl, skew_kl, skew_reverse_kl):
        assert torch.allclose(objective(p, p), torch.zeros(5), atol=1e-5)
        assert (objective(p, q) >= -1e-5).all()
    assert (generalised_jsd(p, q, share) <= math.log(2) + 1e-5).all()
    assert (skew_kl(p, q, share) <= -math.log(share) + 1e-4).all()
    assert torch.allclose(generalised_jsd(p, q, share), generalised_jsd(q, p, 1 - share), atol=1e-5)


def test_what_the_teacher_rules_out_costs_nothing_and_has_no_gradient_that_is_not_a_number() -> None:
    p = torch.tensor([0.5, 0.5, 0.0]).log()
    logits = torch.zeros(3, requires_grad=True)
    loss = forward_kl(p, log_probabilities(logits))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1.5), rel=1e-5)
    assert torch.allclose(logits.grad, torch.tensor([1 / 3 - 0.5, 1 / 3 - 0.5, 1 / 3]), atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [lambda: generalised_jsd(P.log(), Q.log(), 1.1), lambda: skew_kl(P.log(), Q.log(), 0.0)]
)
def test_shares_outside_of_their_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wrong()


def test_padding_of_the_vocabulary_is_nobodys() -> None:
    logits = torch.randn(2, 10, dtype=torch.bfloat16)
    logits[:, 8:] = 100.0
    assert torch.allclose(log_probabilities(logits, vocabulary=8).exp().sum(dim=-1), torch.ones(2))
    assert log_probabilities(logits).dtype == torch.float32
    with pytest.raises(ValueError, match="10 logits; its tokenizer has 12"):
        log_probabilities(logits, vocabulary=12)


def test_only_tokens_that_count_are_in_the_mean() -> None:
    losses = torch.tensor([[1.0, math.inf, 3.0], [math.nan, 5.0, 7.0]])
    counts = torch.tensor([[True, False, True], [False, True, False]])
    assert mean_over_tokens(losses, counts).item() == pytest.approx(3.0)
    assert mean_over_tokens(losses, counts, torch.tensor([1.0, 2.0])).item() == pytest.approx(14 / 4)
    assert mean_over_tokens(losses, torch.zeros_like(counts)).item() == 0.0


def test_minillm_has_the_gradient_of_the_whole_sequences_reverse_kl() -> None:
    """Three tokens, answers of three: the expected gradient over all 27 answers is that of the exact divergence."""
    torch.manual_seed(0)
    first, rest = torch.randn(3, requires_grad=True), torch.randn(3, 3, requires_grad=True)  # rest: by the last token
    their_first, their_rest = drawn(1, 3), drawn(2, 3, 3)
    answers = torch.tensor(list(itertools.product(range(3), repeat=3)))

    def steps(start: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        begin = torch.log_softmax(start, dim=-1).expand(len(answers), 3)
        return torch.stack([begin, *(torch.log_softmax(after, dim=-1)[answers[:, t]] for t in (0, 1))], dim=1)

    def whole(log_probs: torch.Tensor) -> torch.Tensor:
        return log_probs.gather(-1, answers.unsqueeze(-1)).squeeze(-1).sum(dim=-1)

    q, p = steps(first, rest), steps(their_first, their_rest)
    exact = (whole(q).exp() * (whole(q) - whole(p))).sum()
    wanted = torch.autograd.grad(exact, (first, rest))
    q = steps(first, rest)
    chances = whole(q).exp().detach()
    counts = torch.ones_like(answers, dtype=torch.bool)
    loss = sum(
        chance * minillm_loss(p[i : i + 1], q[i : i + 1], answers[i : i + 1], counts[:1], length_normalised=False)
        for i, chance in enumerate(chances)
    )
    found = torch.autograd.grad(loss, (first, rest))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_minillm_weighs_tokens_that_another_drew_and_takes_no_notice_of_padding() -> None:
    p, q = drawn(3, 2, 4, 6), drawn(4, 2, 4, 6).requires_grad_()
    tokens = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    counts = torch.tensor([[True, True, True, False], [True, True, False, False]])
    own = q.detach().gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    same = minillm_loss(p, q, tokens, counts)
    assert minillm_loss(p, q, tokens, counts, own).item() == pytest.approx(same.item(), rel=1e-5)
    likelier = minillm_loss(p, q, tokens, counts, own + math.log(2))
    assert likelier.item() == pytest.approx(same.item() / 2, rel=1e-5)
    changed = p.clone()
    changed[0, 3] = drawn(9, 6)
    changed[1, 2:] = drawn(8, 2, 6)
    assert minillm_loss(changed, q, tokens, counts).item() == pytest.approx(same.item(), rel=1e-6)


@given(SEEDS, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_what_is_kept_bounds_the_whole_divergence_from_below(seed: int, k: int) -> None:
    p, q = drawn(seed, 6, 40), drawn(seed ^ 1, 6, 40)
    kept = keep(p, k)
    assert kept.bytes_per_token == 4 * k + 2
    assert (top_k_kl(kept, q) <= forward_kl(p, q) + 0.02).all()  # float16, and a tail of which little is left
    assert (top_k_kl(kept, q) >= -0.02).all()
    if k == 40:
        assert torch.allclose(top_k_kl(kept, q), forward_kl(p, q), atol=0.02)


def test_where_the_student_shares_the_rest_out_as_the_teacher_nothing_is_lost() -> None:
    p = torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]]).log()
    q = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2]]).log()
    assert top_k_kl(keep(p, 2), q).item() == pytest.approx(forward_kl(p, q).item(), abs=1e-3)
    assert top_k_kl(keep(p, 2), p).item() == pytest.approx(0.0, abs=1e-3)


def test_a_student_is_not_taught_that_the_rest_is_impossible() -> None:
    p = torch.tensor([[0.6, 0.2, 0.1, 0.1]]).log()
    logits = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        top_k_kl(keep(p, 1), log_probabilities(logits)).sum().backward()
        optimizer.step()
    assert log_probabilities(logits).exp()[0].tolist() == pytest.approx([0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3], abs=2e-3)


def test_large_vocabularies_take_wider_ids_and_a_k_beyond_them_is_refused() -> None:
    assert keep(drawn(0, 2, 70_000), 3).ids.dtype == np.uint32
    assert keep(drawn(0, 2, 65_536), 3).ids.dtype == np.uint16
    with pytest.raises(ValueError, match="between 1 and 40"):
        keep(drawn(0, 2, 40), 41)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    teacher, student = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    p = teacher.log_softmax(dim=-1)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(name, p, x.log_softmax(dim=-1), beta=0.3, skew=0.2), student)
    kept = keep(p, 2)
    assert torch.autograd.gradcheck(lambda x: divergence(name, *merged(kept, x.log_softmax(dim=-1))), student)


def test_minillms_gradient_is_that_of_finite_differences_where_rewards_stand_still() -> None:
    """What REINFORCE holds fixed, held fixed: one token, of which nothing follows."""
    generator = torch.Generator().manual_seed(6)
    p = torch.randn(2, 1, 5, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    logits = torch.randn(2, 1, 5, generator=generator, dtype=torch.float64).requires_grad_()
    tokens, counts = torch.tensor([[1], [3]]), torch.ones(2, 1, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: minillm_loss(p, x.log_softmax(dim=-1), tokens, counts), logits)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"])
@given(seed=SEEDS, k=st.integers(1, 39))
@settings(max_examples=25, deadline=None)
def test_every_divergence_of_what_is_merged_is_a_lower_bound(name: str, seed: int, k: int) -> None:
    p, q = drawn(seed, 6, 40), drawn(seed ^ 1, 6, 40)
    found = divergence(name, *merged(keep(p, k), q))
    assert torch.isfinite(found).all()
    assert (found <= divergence(name, p, q) + 0.03).all()
    assert (found >= -1e-5).all()


def test_names_and_shapes_that_do_not_fit_are_refused_with_the_shapes() -> None:
    assert divergence("jsd", P.log(), Q.log(), beta=0.3) == generalised_jsd(P.log(), Q.log(), 0.3)
    assert divergence("skew_kl", P.log(), Q.log(), skew=0.3) == skew_kl(P.log(), Q.log(), 0.3)
    with pytest.raises(ValueError, match=r"of one shape; they are \(3,\) and \(2, 3\)"):
        divergence("forward_kl", P.log(), Q.log().expand(2, 3))


ONE, FIVE = Q.log().expand(1, 3), P.log().expand(5, 3)
TOKENS, COUNTS = torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool)
STEPS = P.log().expand(2, 4, 3)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda: forward_kl(FIVE, ONE), r"\(5, 3\) and \(1, 3\)"),
        (lambda: reverse_kl(ONE, FIVE), r"\(5, 3\) and \(1, 3\)"),
        (lambda: generalised_jsd(FIVE, ONE, 0.3), r"\(5, 3\) and \(1, 3\)"),
        (lambda: skew_kl(FIVE, ONE), r"\(5, 3\) and \(1, 3\)"),
        (lambda: skew_reverse_kl(ONE, FIVE), r"\(5, 3\) and \(1, 3\)"),
        (lambda: top_k_kl(keep(FIVE, 2), ONE), r"\(5, 2\).*\(1, 3\)"),
        (lambda: top_k_kl(keep(FIVE, 3), FIVE[:, :2]), r"\(5, 3\).*\(5, 2\)"),
        (lambda: minillm_loss(STEPS, STEPS[:1], TOKENS, COUNTS), r"\(2, 4, 3\) and \(1, 4, 3\)"),
        (lambda: minillm_loss(STEPS, STEPS, TOKENS[:, :3], COUNTS), r"tokens.*\(2, 3\).*\(2, 4, 3\)"),
        (lambda: minillm_loss(STEPS, STEPS, TOKENS, COUNTS[:1]), r"counts.*\(1, 4\).*\(2, 4, 3\)"),
        (lambda: minillm_loss(STEPS, STEPS, TOKENS, COUNTS, torch.zeros(4)), r"drawn.*\(4,\).*\(2, 4, 3\)"),
        (lambda: mean_over_tokens(torch.ones(2, 4), COUNTS[:1]), r"\(2, 4\).*\(1, 4\)"),
        (lambda: mean_over_tokens(torch.ones(2, 4), COUNTS, torch.ones(3)), r"\(2, 4\).*\(3,\)"),
    ],
)
def test_nothing_is_broadcast_and_the_shapes_are_said(loss, shapes) -> None:
    with pytest.raises(ValueError, match=shapes):
        loss()
