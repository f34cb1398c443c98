"""The distillation engine: what students learn from, how they learn, what they are, and how they become artefacts.

A library of its own: `from stillhouse import distill`. What is used most is named here; the rest is one file a method:

- `response`, `features`, `relations`: objectives on answers, on hidden layers, between texts; `recipe` weighs several
- `schemes`: who teaches whom: ensembles, mutual learning, born-again, deeper layers, assistants
- `fitting`: the training loop; `schedules`, `curriculum`, `augmentation`, `selection`, `replay`: what goes into it
- `training`, `export`: classifiers, from recorded answers to the artefact that serves; `sweep` searches them
- `rerankers`, `embeddings`: students that rank, and that give sentence vectors
- `causal_lm`, `objectives`, `pruning`, `compression`: students that write
- `architecture`: what a model costs, and which student to build; `targets`: exports beyond this machine

All of them are there by name: `distill.schemes.ensembles.averaged`, `distill.response.decoupled.decoupled_loss`.
Importing this package, or `data`, imports neither torch nor ONNX Runtime: names are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from stillhouse.distill.lazy import modules_of

if TYPE_CHECKING:
    from stillhouse.distill.data import LabelledText
    from stillhouse.distill.features.capture import capture
    from stillhouse.distill.features.projection import Projection
    from stillhouse.distill.fitting import fit, shuffled
    from stillhouse.distill.outputs import Outputs
    from stillhouse.distill.recipe import Recipe
    from stillhouse.distill.response.soft_targets import soft_target_loss
    from stillhouse.distill.schemes.lesson import Lesson, direct
    from stillhouse.distill.training import TrainedStudent, train

__all__ = [
    "LabelledText",
    "Lesson",
    "Outputs",
    "Projection",
    "Recipe",
    "TrainedStudent",
    "capture",
    "direct",
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
    "direct": "schemes.lesson",
    "fit": "fitting",
    "shuffled": "fitting",
    "soft_target_loss": "response.soft_targets",
    "train": "training",
}
_module = modules_of(__name__)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        return _module(name)
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
