"""`losses`: are the losses those of another library, and what do they cost?

Objectives of `methods` beside torchdistill's of the same papers and weights, on the same random tensors: 64 texts, 151
labels, vectors of 384. The differences of value and gradient are the largest over five seeds, relative to the largest
entry. torchdistill's RKD takes its means over pairs of a text with itself too, which are 0 for both libraries: of 64
texts its distances are 63/64 and its angles 63 * 62 / 64^2 of ours, and are compared as such. Times are CPU time of
forward and backward, one thread, both asked in turn; the range is over seeds.

Not compared: DKD, which torchdistill 1.1 does not have; CRD, whose negatives it draws from a memory of the whole data;
and similarity-preserving, whose rows it divides by the sum of their absolute values, where the paper's equation 2 and
Stillhouse divide by their length.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.relations.relational import angle_loss, distance_loss
from stillhouse.distill.response.correlation import correlation_loss
from stillhouse.distill.response.logit_standardisation import standardised_logit_loss
from stillhouse.distill.response.soft_targets import soft_target_loss
from tests.benchmarks import meta, peers
from tests.benchmarks.report import shown, table

PEER, PACKAGES = "torchdistill", ("torchdistill", "torch==2.13.0")
TEXTS, LABELS, WIDTH = 64, 151, 384
SEEDS, TIMES = 5, 50
HEADINGS = ("loss", "largest difference: value", "gradient", "stillhouse, CPU-ms", "torchdistill, CPU-ms", "× as fast")
OF_PAIRS, OF_TRIPLES = (TEXTS - 1) / TEXTS, (TEXTS - 1) * (TEXTS - 2) / TEXTS**2

# Of logits or vectors of the student, those of the teacher, and labels.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
OF_LOGITS: dict[str, Loss] = {
    "soft_targets": lambda own, teacher, hard: soft_target_loss(own, teacher.softmax(-1), hard, 2.0, 0.2),
    "standardised_logits": lambda own, teacher, hard: (
        0.1 * functional.cross_entropy(own, hard) + 9.0 * standardised_logit_loss(own, teacher, 2.0)
    ),
    "dist": lambda own, teacher, _: correlation_loss(own, teacher.softmax(-1), 1.0, 2.0, 2.0),
}
OF_VECTORS: dict[str, Loss] = {
    "rkd": lambda own, teacher, _: (
        25.0 * OF_PAIRS * distance_loss(own, teacher) + 50.0 * OF_TRIPLES * angle_loss(own, teacher)
    ),
}


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark. `data` is not read: the tensors are drawn. Raises `PeerFailed`."""
    begun = meta.start()
    torch.set_num_threads(1)
    times, seeds = (5, 2) if quick else (TIMES, SEEDS)
    result: dict[str, Any] = {}
    with peers.Asked(PEER, PACKAGES, "torchdistill_losses.py") as theirs:
        versions = theirs("version")
        for name, loss in (OF_LOGITS | OF_VECTORS).items():
            found = [_once(theirs, name, loss, seed, times) for seed in range(seeds)]
            ratios = [one["theirs_s"] / one["ours_s"] for one in found]
            result[f"stillhouse_{name}"] = {
                "value_difference": max(one["value"] for one in found),
                "gradient_difference": max(one["gradient"] for one in found),
                "cpu_ms": 1000 * median(one["ours_s"] for one in found),
                "peer_cpu_ms": 1000 * median(one["theirs_s"] for one in found),
                "times_as_fast": median(ratios),
                "times_as_fast_range": [min(ratios), max(ratios)],
            }
    result["meta"] = meta.finish(begun, repeats=seeds, quick=quick, data="generated", packages=("torch",))
    result["meta"]["versions"] |= versions
    return result


def _once(theirs: peers.Asked, name: str, loss: Loss, seed: int, times: int) -> dict[str, float]:
    """One seed: the differences of value and gradient, and the CPU seconds of both."""
    random = torch.Generator().manual_seed(seed)
    logits, teacher = (3.0 * torch.randn(TEXTS, LABELS, generator=random) for _ in range(2))
    ours, of_teacher = (torch.randn(TEXTS, WIDTH, generator=random) for _ in range(2))
    labels = torch.randint(0, LABELS, (TEXTS,), generator=random)
    job = {
        "logits": logits,
        "teacher": teacher,
        "labels": labels,
        "student_vectors": ours,
        "teacher_vectors": of_teacher,
    }
    value, gradient, theirs_s = theirs(
        {"loss": name, "times": times, **{key: tensor.tolist() for key, tensor in job.items()}}
    )
    own, other = (logits, teacher) if name in OF_LOGITS else (ours, of_teacher)
    own.requires_grad_(True)
    spent = 0.0
    for turn in range(times + 1):
        own.grad = None
        before = time.process_time()
        said = loss(own, other, labels)
        said.backward()  # type: ignore[no-untyped-call]
        spent += time.process_time() - before if turn else 0.0
    assert own.grad is not None
    expected = torch.tensor(gradient)
    return {
        "value": abs(said.item() - value) / abs(value),
        "gradient": float((own.grad - expected).abs().max() / expected.abs().max()),
        "ours_s": spent / times,
        "theirs_s": float(theirs_s),
    }


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name, of in result.items():
        if name == "meta":
            continue
        low, high = of["times_as_fast_range"]
        rows.append(
            [
                name.removeprefix("stillhouse_"),
                f"{of['value_difference']:.0e}",
                f"{of['gradient_difference']:.0e}",
                of["cpu_ms"],
                of["peer_cpu_ms"],
                f"{shown(float(of['times_as_fast']))} ({shown(float(low))}–{shown(float(high))})",
            ]
        )
    return table(HEADINGS, rows)
