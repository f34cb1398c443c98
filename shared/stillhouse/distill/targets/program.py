"""The trained module as a torch.export program: what converters start from, whatever the student's architecture.

The artefact that serves holds int8; a program holds the trained weights themselves, and is kept beside artefacts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.distill.export import NAMES
from stillhouse.distill.training import TrainedStudent
from stillhouse.models.port import ModelError

SHORTEST: Final = 2  # torch.export takes a length of 1 for a constant
SUFFIX: Final = ".pt2"


def program_path(artefact: Path) -> Path:
    """Where the trainer keeps the program of an artefact: `<home>/modules/<student id>.pt2`."""
    return artefact.absolute().parent.parent / "modules" / (artefact.name + SUFFIX)


def save_program(trained: TrainedStudent, path: Path) -> None:
    """Write the trained module, its inputs int64 [1, n] of any length, to `path` at once. Raises `OSError`."""
    names = NAMES[trained.spec.inputs]
    length = torch.export.Dim("length", min=SHORTEST, max=trained.spec.max_length)
    features = length
    if trained.spec.inputs == "joint":
        features = torch.export.Dim("features", min=SHORTEST, max=trained.spec.max_features)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            trained.module.eval(),
            tuple(torch.ones(1, 16, dtype=torch.long) for _ in names),
            dynamic_shapes=tuple({1: features if name == "features" else length} for name in names),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{SUFFIX}")
    torch.export.save(program, draft)
    os.replace(draft, path)


def load_program(path: Path) -> Callable[[Sequence[NDArray[np.int64]]], NDArray[np.float32]]:
    """A function of inputs int64 [1, n] that gives logits float32 [labels]. Raises `ModelError`."""
    if not path.is_file():
        raise ModelError(
            f"{path}: no trained module is kept there; train the student anew, or name its program with --program."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: Any = torch.export.load(path).module()
    except Exception as error:  # whatever a damaged archive raises
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path}: not a usable torch.export program ({said}); train the student anew.") from None

    def answer(inputs: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        with torch.no_grad():
            said = module(*(torch.from_numpy(one) for one in inputs))
        logits: Tensor = said[0] if isinstance(said, tuple | list) else said
        return np.asarray(logits[0].numpy(), dtype=np.float32)

    return answer
