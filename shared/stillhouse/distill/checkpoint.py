"""Checkpoints of a training run: tensors in safetensors, everything else in JSON, nothing pickled.

`state.json` is replaced last and names the file with the newest weights and the one with the best, so a run that is
killed at any moment finds the newest epoch that was written whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STATE_FILE = "state.json"


@dataclass(slots=True)
class RunState:
    """How far a run is: `epoch` epochs are done. `run` names the run; another run's checkpoints are not resumed."""

    run: str
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    seconds: float = 0.0


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints in `folder` of the run named `run`."""

    folder: Path
    run: str

    def save(self, state: RunState, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep what training changes and the optimizer's state after `state.epoch`. Raises `OSError`."""
        tensors = {f"weights.{name}": value.detach() for name, value in changing(module).items()}
        for place, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": torch.as_tensor(value) for name, value in entry.items()}
        path = self.folder / _file(state.epoch)
        temporary = path.with_suffix(".tmp")
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary))
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(f"{path}: the checkpoint cannot be written ({error}); free some space.") from None
        os.replace(temporary, path)
        temporary = self.folder / f".{STATE_FILE}.tmp"
        temporary.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        os.replace(temporary, self.folder / STATE_FILE)
        for old in self.folder.glob("epoch-*"):
            if old.name not in (_file(state.epoch), _file(state.best_epoch)):
                old.unlink()

    def seconds(self) -> float:
        """What this run took so far, in all attempts; 0 where there is no checkpoint of it."""
        try:
            state = RunState(**json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return 0.0
        return state.seconds if state.run == self.run else 0.0

    def resume(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> RunState:
        """Load the newest checkpoint into `module` and `optimizer`; a new state where there is none of this run."""
        try:
            raw: dict[str, Any] = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            state = RunState(**raw)
            if state.run != self.run:
                return RunState(self.run)
            tensors = load_file(str(self.folder / _file(state.epoch)))
            load_file(str(self.folder / _file(state.best_epoch)))
        except (OSError, ValueError, TypeError, SafetensorError):
            # Not there, or spoilt: training anew costs minutes, and gives the same student.
            return RunState(self.run)
        _put(module, tensors)
        described = optimizer.state_dict()
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                place, _, entry = rest.partition(".")
                entries.setdefault(int(place), {})[entry] = value
        optimizer.load_state_dict({"state": entries, "param_groups": described["param_groups"]})
        return state

    def load_best(self, state: RunState, module: nn.Module) -> None:
        """Put the best epoch's weights into `module`. Raises `OSError`."""
        _put(module, load_file(str(self.folder / _file(state.best_epoch))))


def _file(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def changing(module: nn.Module) -> dict[str, Tensor]:
    """Weights that learn, and what the module itself keeps (running means, memories of other batches), by name."""
    kept = module.state_dict(keep_vars=True)
    learning = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {**learning, **{name: value for name, value in module.named_buffers() if name in kept}}


def _put(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in changing(module).items():
            value.copy_(tensors[f"weights.{name}"])
