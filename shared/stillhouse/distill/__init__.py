"""The distillation engine: what students learn from, how they learn, what they are, and how they become artefacts.

A library of its own: `from stillhouse import distill`. What is used most is named here; the rest is one file a method:

- `response`, `features`, `relations`: objectives on answers, on hidden layers, between texts; `recipe` weighs several
- `schemes`: who teaches whom: ensembles, mutual learning, born-again, deeper layers, assistants
- `fitting`: the training loop; `schedules`, `curriculum`, `augmentation`, `selection`, `replay`: what goes into it
- `training`, `export`: classifiers, from recorded answers to the artefact that serves; `sweep` searches them
- `rerankers`, `embeddings`: students that rank, and that give sentence vectors
- `causal_lm`, `objectives`, `pruning`, `compression`: students that write
- `architecture`: what a model costs, and which student to build; `targets`: exports beyond this machine

Importing this package, or `data`, imports neither torch nor ONNX Runtime: names are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stillhouse.distill.data import LabelledText
    from stillhouse.distill.features.capture import capture
    from stillhouse.distill.features.projection import Projection
    from stillhouse.distill.fitting import fit, shuffled
    from stillhouse.distill.outputs import Outputs
    from stillhouse.distill.recipe import Recipe
    from stillhouse.distill.response.soft_targets import soft_target_loss
    from stillhouse.distill.schemes.lesson import Lesson
    from stillhouse.distill.training import TrainedStudent, train

__all__ = [
    "LabelledText",
    "Lesson",
    "Outputs",
    "Projection",
    "Recipe",
    "TrainedStudent",
    "capture",
    "fit",
    "shuffled",
    "soft_target_loss",
    "train",
]

_MODULES: Final = {
    "LabelledText": "data",
    "Lesson": "schemes.lesson",
    "Outputs": "outputs",
    "Projection": "features.projection",
    "Recipe": "recipe",
    "TrainedStudent": "training",
    "capture": "features.capture",
    "fit": "fitting",
    "shuffled": "fitting",
    "soft_target_loss": "response.soft_targets",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
