"""Reading what happens inside of a model: outputs of modules, named by their path, without changing the model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from stillhouse.models.port import ModelError


@dataclass(slots=True)
class Captured:
    """What the modules said in the newest forward pass, by module path; gradients flow through it.

    `outputs`: a module's output, or the first part of one that gives several; `attention`: the second part, which is
    where attention modules put their maps [B, heads, n, n] when they compute them; `inputs`: a module's first input.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def capture(
    module: nn.Module, outputs: Sequence[str] = (), *, attention: Sequence[str] = (), inputs: Sequence[str] = ()
) -> Iterator[Captured]:
    """Listen to submodules of `module` by path, as `named_modules` has them, while the context lasts.

    Raises `ModelError` for a path that is not there, with the nearest that is.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with capture(model, ["1"], inputs=["2"]) as captured:
    ...     _ = model(torch.ones(4, 2))
    >>> captured.outputs["1"].shape, captured.inputs["2"].shape
    (torch.Size([4, 3]), torch.Size([4, 3]))
    """
    captured = Captured()
    handles = []

    def keep(into: dict[str, Tensor], path: str, part: int) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], said: Any) -> None:
            into[path] = said[part] if isinstance(said, tuple | list) else said

        return hook

    def keep_input(path: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            captured.inputs[path] = given[0]

        return hook

    try:
        for path in outputs:
            handles.append(submodule(module, path).register_forward_hook(keep(captured.outputs, path, 0)))
        for path in attention:
            handles.append(submodule(module, path).register_forward_hook(keep(captured.attention, path, 1)))
        for path in inputs:
            handles.append(submodule(module, path).register_forward_pre_hook(keep_input(path)))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def submodule(module: nn.Module, path: str) -> nn.Module:
    """The submodule at `path`. Raises `ModelError` where there is none.

    >>> submodule(nn.Sequential(nn.ReLU()), "O")
    Traceback (most recent call last):
    ...
    stillhouse.models.port.ModelError: The model has no module 'O'; near it are '0'.
    """
    known: dict[str, nn.Module] = {name: found for name, found in module.named_modules() if name}
    if path in known:
        return known[path]
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.0)
    raise ModelError(f"The model has no module {path!r}; near it are {', '.join(map(repr, near)) or 'none'}.")
