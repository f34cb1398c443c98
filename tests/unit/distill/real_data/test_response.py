"""Every objective on answers teaches digits: more than the teacher's labels alone do, which say nothing but the digit.

What a loss does for students is compared seed by seed with cross-entropy on the teacher's labels: the same starts, the
same digits, the same steps.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import Recipe
from stillhouse.distill.response.correlation import correlation_loss
from stillhouse.distill.response.decoupled import decoupled_loss
from stillhouse.distill.response.hard_labels import hard_label_loss
from stillhouse.distill.response.logit_standardisation import standardised_logit_loss
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.tasks.distillation import HardLabels, SoftTargets
from tests.unit.distill.real_data.digits import (
    LABELS,
    answers,
    by_labels_alone,
    each,
    labels,
    surely_more,
    untaught,
)

Loss = Callable[[Outputs, Tensor], Tensor]


def soft(places: Tensor) -> Tensor:
    return answers().logits[places].softmax(dim=-1)


def by_label(said: Outputs, places: Tensor) -> Tensor:
    """Blending per class: the labels that count more for digits that look like others."""
    hard = labels()[places]
    alphas = torch.tensor([0.5 if digit in (1, 8, 9) else 0.1 for digit in range(LABELS)])
    return soft_target_loss(said.logits, soft(places), hard, 4.0, alphas[hard])


def by_recipe(said: Outputs, places: Tensor) -> Tensor:
    """The same as terms of a task file, with weights of classes."""
    return RECIPE(Outputs(said.logits), Outputs(answers().logits[places]), labels()[places])


RECIPE = Recipe(
    [
        HardLabels(weight=0.2, class_weight={"8": 2.0}),
        SoftTargets(weight=0.8, temperature=4.0, class_weight={"1": 2.0}),
    ],
    Outputs(torch.zeros(1, LABELS)),
    Outputs(torch.zeros(1, LABELS)),
    labels=[str(digit) for digit in range(LABELS)],
)
LOSSES: dict[str, Loss] = {
    "smoothed labels": lambda said, at: hard_label_loss(said.logits, labels()[at], 0.1),
    "soft targets": lambda said, at: soft_target_loss(said.logits, soft(at), labels()[at], 4.0, 0.0),
    "soft targets and labels": lambda said, at: soft_target_loss(said.logits, soft(at), labels()[at], 4.0, 0.2),
    "blended per class": by_label,
    "class weights": by_recipe,
    "standardised": lambda said, at: standardised_logit_loss(said.logits, answers().logits[at], 2.0),
    "decoupled": lambda said, at: decoupled_loss(said.logits, soft(at), labels()[at], 4.0, 1.0, 2.0),
    "correlation": lambda said, at: correlation_loss(said.logits, soft(at), 4.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_students_agree_more_than_by_labels_alone(name) -> None:
    assert surely_more(each(LOSSES[name]), by_labels_alone()) > 0.01


def test_labels_alone_teach_most_of_it() -> None:
    """Hard labels: what all others are compared with must itself be far above students that know nothing."""
    assert surely_more(by_labels_alone(), untaught()) > 0.7
    assert min(by_labels_alone()) > 0.75
