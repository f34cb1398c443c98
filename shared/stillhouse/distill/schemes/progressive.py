"""Progressive distillation: teacher -> assistant -> student, in small steps (Mirzadeh et al. 1902.03393).

A student far smaller than its teacher learns less from it than from an assistant in between, which was itself taught by
the teacher. Dropping layers in steps is the same idea for one network: each step starts from the weights of the one
before, without some layers, and learns from what that one answers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from stillhouse.distill.fitting import Epoch
from stillhouse.distill.schemes.lesson import Lesson, direct
from stillhouse.models.port import ModelError


def progressive(line: Sequence[nn.Module], lesson: Lesson) -> list[list[Epoch]]:
    """Train each module of `line`, largest first, on what the one before it answers; the first on the lesson's teacher.

    The last is the student. Gives the epochs of each. Raises `ModelError` for a line without an assistant.

    >>> from stillhouse.distill.outputs import Outputs
    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard, epochs=20, rate=0.1)
    >>> assistant = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> student = nn.Linear(2, 2)
    >>> _ = progressive([assistant, student], lesson)
    >>> bool((lesson.probabilities(student).argmax(1) == hard).all())
    True
    """
    if len(line) < 2:
        raise ModelError(f"A line of {len(line)} has no assistant; give at least an assistant and a student.")
    said: list[list[Epoch]] = []
    soft = None
    for step, module in enumerate(line):
        said.append(direct(module, lesson, soft, name=f"step-{step}"))
        if step + 1 < len(line):
            soft = lesson.probabilities(module)
    return said


def without_layers(module: nn.Module, layers: str, keep: Sequence[int]) -> nn.Module:
    """A copy of `module` whose `nn.ModuleList` at the path `layers` has only the layers `keep`, with their weights.

    Raises `ModelError` for a path that is no such list, or layers that are not there.

    >>> body = nn.ModuleDict({"layer": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})
    >>> len(without_layers(body, "layer", [0, 2])["layer"])
    2
    """
    smaller = copy.deepcopy(module)
    parent, _, name = layers.rpartition(".")
    try:
        holder = smaller.get_submodule(parent)
        there = holder.get_submodule(name)
    except AttributeError:
        raise ModelError(f"{type(module).__name__} has no {layers!r}; name the list of its layers.") from None
    if not isinstance(there, nn.ModuleList):
        raise ModelError(f"{layers!r} is a {type(there).__name__}; layers can be dropped from an nn.ModuleList.")
    if not keep or sorted(set(keep)) != list(keep) or not 0 <= keep[0] <= keep[-1] < len(there):
        raise ModelError(f"{layers!r} has {len(there)} layers; {list(keep)} cannot be kept of it, in this order.")
    setattr(holder, name, nn.ModuleList(there[i] for i in keep))
    return smaller


def drop_in_steps(
    module: nn.Module,
    lesson: Lesson,
    layers: str,
    steps: Sequence[Sequence[int]],
    *,
    on_step: Callable[[int, nn.Module], None] = lambda step, module: None,
) -> nn.Module:
    """Train `module`, then drop all but the layers `steps[0]`, train again, and so on; gives the smallest.

    Each of `steps` names layers of the module before it. Every step starts from the weights and learns from the answers
    of the step before; `on_step(step, module)` sees each when it is trained, step 0 being the whole.

    >>> from stillhouse.distill.outputs import Outputs
    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> class Deep(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    ...     def forward(self, x):
    ...         for layer in self.layer:
    ...             x = layer(x)
    ...         return x
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard, epochs=20, rate=0.1)
    >>> student = drop_in_steps(Deep(), lesson, "layer", [[0, 1], [0]])
    >>> len(student.layer), bool((lesson.probabilities(student).argmax(1) == hard).all())
    (1, True)
    """
    direct(module, lesson, name="whole")
    on_step(0, module)
    for step, keep in enumerate(steps, start=1):
        soft: torch.Tensor = lesson.probabilities(module)
        module = without_layers(module, layers, keep)
        direct(module, lesson, soft, name=f"drop-{step}")
        on_step(step, module)
    return module
