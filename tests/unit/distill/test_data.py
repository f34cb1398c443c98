"""Soft targets: rows sum to 1, and an answer that somebody else decided is not softened by the encoder's doubts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from stillhouse.distill.data import LabelledText, hard_targets, soft_targets
from stillhouse.models.port import ModelError

LABELS = ("a", "b", "c")


def test_probabilities_are_renormalised_in_the_order_of_the_labels() -> None:
    soft = soft_targets([LabelledText("x", "b", {"b": 0.6, "a": 0.2})], LABELS)
    assert soft.dtype == np.float32
    assert soft[0] == pytest.approx([0.25, 0.75, 0.0])


@pytest.mark.parametrize(
    "distribution",
    [{}, {"a": 0.9, "c": 0.1}, {"gone": 1.0}],
    ids=["none", "another label is likelier", "only a label that the task no longer has"],
)
def test_the_label_stands_alone(distribution) -> None:
    assert soft_targets([LabelledText("x", "c", distribution)], LABELS)[0].tolist() == [0, 0, 1]


def test_a_label_that_left_the_task_gives_its_share_to_the_others() -> None:
    soft = soft_targets([LabelledText("x", "a", {"a": 0.6, "gone": 0.2, "b": 0.2})], LABELS)
    assert soft[0] == pytest.approx([0.75, 0.25, 0.0])


def test_an_unknown_label_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="'d'"):
        hard_targets([LabelledText("x", "d")], LABELS)


def test_data_needs_no_torch() -> None:
    code = "import stillhouse.distill.data, sys; print({'torch', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
