"""Terms compute where their inputs are: on the meta device, which refuses tensors of another one as a GPU does."""

from __future__ import annotations

import pytest
import torch

from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import Recipe
from stillhouse.distill.relations.contrastive import Contrast
from stillhouse.tasks.distillation import (
    AttentionTransfer,
    Correlation,
    HardLabels,
    HiddenStates,
    Relational,
    SimilarityPreserving,
    SoftTargets,
    StandardisedLogits,
)

# DKD is left out: how many texts it takes depends on values, which the meta device has not.
TERMS = [
    HardLabels(class_weight={"a": 2.0}),
    SoftTargets(class_weight={"a": 2.0}),
    StandardisedLogits(),
    Correlation(),
    Relational(),
    SimilarityPreserving(),
    HiddenStates(kind="hidden_mse", student="layer", teacher="layer"),
    AttentionTransfer(student="layer", teacher="layer"),
]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.kind)
def test_a_term_computes_where_its_inputs_are(term) -> None:
    with torch.device("meta"):
        said = Outputs(torch.zeros(4, 3), {"layer": torch.zeros(4, 5, 8)}, {}, torch.zeros(4, 8), torch.ones(4, 5))
        hard, weight = torch.zeros(4, dtype=torch.long), torch.ones(4)
    recipe = Recipe([term], said, said, labels=("a", "b", "c")).to("meta")
    assert recipe(said, said, hard, weight).device.type == "meta"


def test_contrast_and_its_queue_are_where_the_vectors_are() -> None:
    crd = Contrast(8, 8, texts=10, dim=4, queue=16).to("meta")
    crd.filled = torch.tensor(3)  # how many are queued is asked for, which the meta device cannot answer
    with torch.device("meta"):
        vectors, labels = torch.zeros(4, 8), torch.zeros(4, dtype=torch.long)
    assert crd(vectors, vectors, labels).device.type == "meta"
    assert crd(vectors, vectors).device.type == "meta"
    assert int(crd.filled) == 11
