"""Where a model's weights, operations, memory and time are: by module, from hooks on real forward passes.

Operations are counted by torch's FlopCounterMode (matrix products, as everybody counts them); activations are what
operations write to memory of their own, counted as they run; times are on one thread, the shortest of repeats, since
what else a machine does only adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.distill.fitting import torch_set_up
from stillhouse.models.port import ModelError

KINDS: Final = ("embeddings", "attention", "mlp", "norm", "head", "other")
Inputs = Callable[[int, int], tuple[Tensor, ...]]  # of (batch, length)


@dataclass(frozen=True, slots=True)
class Part:
    """One module. `flops_per_token` of matrix products; `activation_bytes` and `ms` of one text of the asked length."""

    name: str
    kind: str
    parameters: int
    bytes: int
    flops_per_token: float
    activation_bytes: int
    ms: float


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: `flops` of matrix products, bytes that operations write, milliseconds."""

    batch: int
    length: int
    flops: int
    activation_bytes: int
    ms: float


@dataclass(frozen=True, slots=True)
class Analysis:
    """A model's costs. `share` maps each kind of module to its share of matrix operations, and of the time measured.

    `precision` is the weights' type; `bottleneck` says in a sentence where the time goes and what that means.
    """

    name: str
    precision: str
    layers: int
    parameters: int
    bytes: int
    parts: list[Part]
    passes: list[Pass]
    share: dict[str, dict[str, float]]
    bottleneck: str


class Written(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes that operations write to memory of their own; views write none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and count its outputs whose storage is none of its inputs'."""
        given = {_storage(value) for value in _tensors((args, kwargs or {}))}
        found = func(*args, **(kwargs or {}))
        self.bytes += sum(
            value.numel() * value.element_size() for value in _tensors(found) if _storage(value) not in given
        )
        return found


def analyze(
    model: nn.Module,
    inputs: Inputs,
    name: str,
    *,
    length: int = 32,
    batches: Sequence[int] = (1, 8, 32),
    repeats: int = 5,
) -> Analysis:
    """Measure `model` on `inputs(batch, length)`: each batch size as a whole, and each module for one text.

    Raises `ModelError` where `length`, a batch size or `repeats` is under 1.
    """
    if min(length, repeats, *batches) < 1:
        raise ModelError(f"length {length}, batches {list(batches)} and repeats {repeats} must all be at least 1.")
    model = model.eval()
    names = parts_of(model)
    given = inputs(1, length)
    with torch_set_up(threads=1):
        passes = [_pass(model, inputs(batch, length), batch, length, repeats) for batch in batches]
        counts = _flops(model, given)
        took = _times(model, names, given, repeats)
        wrote = _activations(model, names, given)
    modules = dict(model.named_modules())
    parts = [
        Part(
            name=part,
            kind=kind_of(part, modules[part]),
            parameters=sum(weight.numel() for weight in modules[part].parameters()),
            bytes=_bytes(modules[part]),
            flops_per_token=_of(counts, type(model).__name__, part) / length,
            activation_bytes=wrote.get(part, 0),
            ms=took.get(part, 0.0),
        )
        for part in names
    ]
    share = _shares(parts)
    return Analysis(
        name=name,
        precision=", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()})),
        layers=len({part.rsplit(".", 1)[0] for part in names if kind_of(part, modules[part]) == "attention"}),
        parameters=sum(weight.numel() for weight in model.parameters()),
        bytes=_bytes(model),
        parts=parts,
        passes=passes,
        share=share,
        bottleneck=bottleneck(parts, share, passes),
    )


def parts_of(model: nn.Module) -> list[str]:
    """Names of the modules to look at: in every layer of a `ModuleList` its children, elsewhere the outermost ones."""
    found: list[str] = []

    def walk(module: nn.Module, name: str) -> None:
        children = list(module.named_children())
        has_layers = any(isinstance(inner, nn.ModuleList) for inner in module.modules())
        if name and (not children or not has_layers):
            found.append(name)
            return
        for child, inner in children:
            path = f"{name}.{child}" if name else child
            if isinstance(inner, nn.ModuleList):
                for i, layer in enumerate(inner):
                    below = list(layer.named_children())
                    found.extend(f"{path}.{i}.{part}" for part, _ in below)
                    if not below:
                        found.append(f"{path}.{i}")
            else:
                walk(inner, path)

    walk(model, "")
    return found


def kind_of(name: str, module: nn.Module) -> str:
    """Which of `KINDS` a module is, by its own name and its class."""
    own = f"{name.rsplit('.', 1)[-1]} {type(module).__name__}".lower()
    for kind, words in (
        ("norm", ("norm",)),
        ("embeddings", ("embed", "wte", "wpe")),
        ("attention", ("attention", "attn")),
        ("head", ("head", "classifier", "pooler", "score")),
        ("mlp", ("mlp", "intermediate", "output", "ffn", "feed", "dense", "fc")),
    ):
        if any(word in own for word in words):
            return kind
    return "other"


def bottleneck(parts: Sequence[Part], share: dict[str, dict[str, float]], passes: Sequence[Pass]) -> str:
    """Where the time goes, in a sentence, and what could be changed there."""
    if not parts:
        return "The model has no modules to look at."
    kind = max(share, key=lambda one: share[one]["time"])
    weights = max(parts, key=lambda part: part.bytes)
    advice = {
        "mlp": "a narrower inner width or fewer layers shorten it most",
        "attention": "fewer layers or heads, and shorter texts, shorten it most",
        "embeddings": "a smaller vocabulary or a static student changes most",
        "head": "fewer labels or a low-rank head change most",
    }.get(kind, "fewer layers shorten it most")
    first, last = passes[0], passes[-1]
    gain = (first.ms / first.batch) / (last.ms / last.batch) if last.ms and last.batch > first.batch else 1.0
    batching = (
        f"; a text costs {gain:.1f} times less in a batch of {last.batch}, so single texts pay for overhead"
        if gain > 1.5
        else ""
    )
    return (
        f"{share[kind]['time']:.0%} of the time is {kind} ({share[kind]['flops']:.0%} of the operations): {advice}. "
        f"The largest weights are {weights.name} with {weights.bytes / 1e6:.1f} MB{batching}."
    )


def _shares(parts: Sequence[Part]) -> dict[str, dict[str, float]]:
    flops, ms = sum(part.flops_per_token for part in parts) or 1.0, sum(part.ms for part in parts) or 1.0
    return {
        kind: {
            "flops": sum(part.flops_per_token for part in parts if part.kind == kind) / flops,
            "time": sum(part.ms for part in parts if part.kind == kind) / ms,
            "parameters": float(sum(part.parameters for part in parts if part.kind == kind)),
        }
        for kind in KINDS
        if any(part.kind == kind for part in parts)
    }


def _pass(model: nn.Module, given: tuple[Tensor, ...], batch: int, length: int, repeats: int) -> Pass:
    with torch.no_grad(), Written() as written:
        model(*given)
    took = []
    with torch.no_grad():
        for _ in range(repeats):
            begun = time.perf_counter()
            model(*given)
            took.append((time.perf_counter() - begun) * 1e3)
    flops = sum(_flops(model, given)["Global"].values())
    return Pass(batch, length, flops, written.bytes, min(took))


def _flops(model: nn.Module, given: tuple[Tensor, ...]) -> dict[str, dict[Any, int]]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*given)
    return dict(counter.get_flop_counts())


def _of(counts: dict[str, dict[Any, int]], root: str, part: str) -> int:
    return sum(counts.get(f"{root}.{part}", {}).values())


def _times(model: nn.Module, names: Sequence[str], given: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    begun: dict[str, float] = {}
    took: dict[str, list[float]] = {}
    hooks = []

    def before(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            begun[name] = time.perf_counter()

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            took.setdefault(name, []).append((time.perf_counter() - begun[name]) * 1e3)

        return hook

    modules = dict(model.named_modules())
    for name in names:
        hooks.append(modules[name].register_forward_pre_hook(before(name)))
        hooks.append(modules[name].register_forward_hook(after(name)))
    try:
        with torch.no_grad():
            for _ in range(repeats):
                model(*given)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: min(times) for name, times in took.items()}


def _activations(model: nn.Module, names: Sequence[str], given: tuple[Tensor, ...]) -> dict[str, int]:
    begun: dict[str, int] = {}
    wrote: dict[str, int] = {}
    hooks = []
    modules = dict(model.named_modules())
    with torch.no_grad(), Written() as written:

        def before(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                begun[name] = written.bytes

            return hook

        def after(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                wrote[name] = wrote.get(name, 0) + written.bytes - begun[name]

            return hook

        for name in names:
            hooks.append(modules[name].register_forward_pre_hook(before(name)))
            hooks.append(modules[name].register_forward_hook(after(name)))
        try:
            model(*given)
        finally:
            for hook in hooks:
                hook.remove()
    return wrote


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [one for item in value.values() for one in _tensors(item)]
    if isinstance(value, list | tuple):
        return [one for item in value for one in _tensors(item)]
    return []


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
