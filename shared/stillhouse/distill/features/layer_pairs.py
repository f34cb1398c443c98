"""A term on hidden layers for each pair of layers that a map makes (`layer_map`): its `layers` as a task file says it.

Pairs are added, each with the term's whole weight, as TinyBERT does (Jiao et al. 1909.10351, equation 11 with all
lambda_m equal).

    [[student.distill]]
    kind = "hidden_mse"
    layers = "uniform"

is in Python, for a student of two layers under a teacher of six:

>>> from stillhouse.tasks.distillation import HiddenStates
>>> ours, theirs = [f"layer.{i}" for i in range(2)], [f"encoder.layer.{i}" for i in range(6)]
>>> for pair in paired(HiddenStates(kind="hidden_mse", layers="uniform"), ours, theirs):
...     print(pair.student, pair.teacher)
layer.0 encoder.layer.2
layer.1 encoder.layer.5

A `Recipe` takes the pairs as any other terms:

>>> import torch
>>> from stillhouse.distill.recipe import Recipe
>>> student = Outputs(states={path: torch.randn(3, 4, 8) for path in ours})
>>> teacher = Outputs(states={path: torch.randn(3, 4, 16) for path in theirs})
>>> recipe = Recipe(paired(HiddenStates(kind="hidden_mse", layers="uniform"), ours, theirs), student, teacher)
>>> len(recipe.terms), recipe(student, teacher, torch.zeros(3, dtype=torch.int64)).shape
(2, torch.Size([]))
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stillhouse.distill.features.layer_map import last, searched, uniform
from stillhouse.distill.outputs import Outputs
from stillhouse.models.port import ModelError
from stillhouse.tasks.distillation import AnyFeature


def paired(
    term: AnyFeature,
    student: Sequence[str],
    teacher: Sequence[str],
    *,
    learn: int | None = None,
    ours: Outputs | None = None,
    theirs: Outputs | None = None,
) -> list[AnyFeature]:
    """`term` once for each pair, with the paths of both layers; itself, where it says no `layers`.

    `student` and `teacher` are the paths of all layers of the two, the lowest first, of which the student's highest
    `learn` are taught (None: all). "searched" compares hidden states of these in `ours` with those of all the
    teacher's layers in `theirs`, which must be of the same texts. Raises `ModelError` where they lack a layer, are of
    other texts, or the student has more layers than the teacher.

    A student that is cut from its teacher and has learnt nothing yet is most like the layers that it was made of:
    "searched" then asks it to stay as it is.
    """
    if term.layers is None:
        return [term]
    count = len(student) if learn is None else learn
    if not 1 <= count <= len(student):
        raise ModelError(f"Of {len(student)} layers, {count} cannot learn.")
    taught = student[len(student) - count :]
    if term.layers == "searched":
        found = searched(_tokens("student", ours, taught), _tokens("teacher", theirs, teacher))
    elif term.layers == "uniform":
        found = uniform(len(student), len(teacher))[-count:]
    else:
        found = last(len(student), len(teacher), count)[-count:]
    return [
        term.model_copy(update={"student": path, "teacher": teacher[place - 1], "layers": None})
        for path, place in zip(taught, found, strict=True)
    ]


def _tokens(whose: str, outputs: Outputs | None, paths: Sequence[str]) -> list[Tensor]:
    """The states of real tokens of each layer, [N, width]."""
    states = {} if outputs is None else outputs.states
    for path in paths:
        if path not in states:
            raise ModelError(f"layers = 'searched' needs states of {path!r} of the {whose}, which were not captured.")
    mask = None if outputs is None else outputs.mask
    return [states[path][mask.bool()] if mask is not None else states[path].flatten(0, -2) for path in paths]
