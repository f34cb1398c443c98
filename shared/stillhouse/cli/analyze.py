"""`stillhouse analyze`: what a model costs, module by module."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import AsJson, console, fail, percent, show_json, show_table

if TYPE_CHECKING:
    from stillhouse.distill.architecture.analyze import Analysis


def analyze(
    model: Annotated[
        str, typer.Argument(help="`minilm`, a folder with config.json and safetensors, or a student's artefact.")
    ],
    length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 32,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch sizes, 1, 8 and 32 by default; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Forward passes; times are the shortest of them.")] = 5,
    plot: Annotated[Path | None, typer.Option(help="Write a plot to this HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show layers, parameters, bytes, operations, activations and measured time of every module, and the bottleneck."""
    from dataclasses import asdict

    from stillhouse.models.port import ModelError

    try:
        from stillhouse.distill.architecture.loading import analyze_model
    except ImportError as error:
        fail(f"{error.name} is not installed; install stillhouse[train].")
    out = console()
    try:
        with nullcontext() if as_json else out.status(f"measuring {model}"):
            found = analyze_model(model, length=length, batches=tuple(batch) if batch else None, repeats=repeats)
        if plot is not None:
            _plot(found, plot)
    except (ModelError, OSError) as error:
        fail(str(error))
    if as_json:
        show_json(asdict(found))
        return
    _show(found)
    if plot is not None:
        out.print(f"plot: {plot}", soft_wrap=True, markup=False)


def _show(found: Analysis) -> None:
    out = console()
    out.print(
        f"{found.name}: {found.parameters:,} parameters ({found.precision}), {found.bytes / 1e6:,.1f} MB"
        + (f", {found.layers} layers" if found.layers else ""),
        soft_wrap=True,
        markup=False,
    )
    columns = ("module", "kind", "parameters", "MB", "MFLOP/token", "activations KB", "ms")
    show_table(
        columns,
        [
            [
                part.name,
                part.kind,
                part.parameters or None,
                part.bytes / 1e6,
                part.flops_per_token / 1e6,
                part.activation_bytes / 1e3,
                part.ms,
            ]
            for part in found.parts
        ],
        "no modules",
    )
    out.print()
    show_table(
        ("batch", "tokens", "MFLOP", "MFLOP/token", "activations MB", "ms", "ms/text"),
        [
            [
                one.batch,
                one.length,
                one.flops / 1e6,
                one.flops / 1e6 / (one.batch * one.length),
                one.activation_bytes / 1e6,
                one.ms,
                one.ms / one.batch,
            ]
            for one in found.passes
        ],
        "no passes",
    )
    out.print()
    show_table(
        ("kind", "operations", "time"),
        [[kind, percent(share["flops"]), percent(share["time"])] for kind, share in found.share.items()],
        "",
    )
    out.print()
    out.print(found.bottleneck, soft_wrap=True, markup=False)


def _plot(found: Analysis, path: Path) -> None:
    from stillhouse.distill.architecture.plots import bars, write_page

    times = [(part.name, part.kind, part.ms) for part in found.parts if part.ms]
    sizes = [(part.name, part.kind, part.bytes / 1e6) for part in found.parts if part.bytes]
    write_page(
        path,
        f"{found.name}: where its time and its bytes are",
        [found.bottleneck, bars("time", times, "ms"), bars("weights", sizes, "MB")],
    )
