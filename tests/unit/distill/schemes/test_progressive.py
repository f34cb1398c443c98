from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.distill.outputs import Outputs
from stillhouse.distill.schemes.lesson import Lesson, direct
from stillhouse.distill.schemes.progressive import drop_in_steps, progressive, without_layers
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import BAGS, HARD, SOFT, TEST_BAGS, TEST_HARD, Net, agreement, lesson, said


class Deep(nn.Module):
    """Residual layers of one width, so that any can be left out."""

    def __init__(self, seed: int, layers: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(BAGS.shape[1], 12)
        self.body = nn.ModuleDict({"layer": nn.ModuleList(nn.Linear(12, 12) for _ in range(layers))})
        self.head = nn.Linear(12, 3)

    def forward(self, bags: torch.Tensor) -> torch.Tensor:
        states = torch.tanh(self.first(bags))
        for layer in self.body["layer"]:
            states = states + torch.tanh(layer(states))
        return self.head(states)


def deep_lesson(**changes) -> Lesson:
    fields = {"says": lambda module, places: Outputs(module(BAGS[places])), "hard": HARD, "soft": SOFT, "rate": 0.02}
    return Lesson(**(fields | {"epochs": 6} | changes))


def test_the_student_learns_from_the_assistant_and_the_assistant_from_the_teacher() -> None:
    assistant, student = Net(0, width=24), Net(1, width=4)
    progressive([assistant, student], lesson())
    alone, taught = Net(0, width=24), Net(1, width=4)
    direct(alone, lesson())
    assert torch.equal(said(assistant), said(alone))
    direct(taught, lesson(), lesson().probabilities(alone))
    assert torch.equal(said(student), said(taught))
    assert agreement(student) > 0.9


def test_a_copy_without_layers_keeps_the_weights_of_the_others() -> None:
    whole = Deep(0)
    smaller = without_layers(whole, "body.layer", [0, 3])
    assert torch.equal(smaller.body["layer"][1].weight, whole.body["layer"][3].weight)
    assert len(whole.body["layer"]) == 4
    smaller.body["layer"][0].weight.data.zero_()
    assert whole.body["layer"][0].weight.any()


def test_layers_dropped_in_steps_leave_a_student_that_knows_the_task() -> None:
    seen: list[int] = []
    student = drop_in_steps(
        Deep(0),
        deep_lesson(),
        "body.layer",
        [[0, 1, 2], [0, 2]],
        on_step=lambda step, module: seen.append(len(module.body["layer"])),
    )
    assert seen == [4, 3, 2]
    with torch.no_grad():
        assert float((student(TEST_BAGS).argmax(1) == TEST_HARD).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("layers", "keep", "why"),
    [
        ("body.layers", [0], "has no 'body.layers'"),
        ("head", [0], "is a Linear"),
        ("body.layer", [0, 4], "has 4 layers"),
        ("body.layer", [1, 0], "in this order"),
        ("body.layer", [], "cannot be kept"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, keep, why) -> None:
    with pytest.raises(ModelError, match=why):
        without_layers(Deep(0), layers, keep)


def test_a_line_needs_an_assistant() -> None:
    with pytest.raises(ModelError, match="no assistant"):
        progressive([Net(0)], lesson())
