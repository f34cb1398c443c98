"""`stillhouse design`: student architectures for a target, with what they cost and how good they will be."""

from __future__ import annotations

import gzip
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.cli._common import AsJson, console, fail, percent, show_json, show_table

if TYPE_CHECKING:
    from stillhouse.distill.architecture.design import Design
    from stillhouse.distill.data import LabelledText


def design(
    teacher: Annotated[str, typer.Option(help="`minilm`, or a folder with the config.json of an encoder.")] = "minilm",
    target: Annotated[str, typer.Option(help="onnx, litert, coreml, executorch or web.")] = "onnx",
    max_latency: Annotated[float | None, typer.Option(help="Milliseconds of one text, at most.")] = None,
    max_size: Annotated[float | None, typer.Option(help="MB of the file, at most.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="Agreement with the teacher, at least, 0 to 1.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="JSON lines with `text` and `label` (or `teacher`), to measure quality on."),
    ] = None,
    sample: Annotated[int, typer.Option(min=60, help="Texts that students of the curves learn from, at most.")] = 800,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 32,
    labels: Annotated[int, typer.Option(min=2, help="Labels of the task; counted where data is given.")] = 2,
    plot: Annotated[Path | None, typer.Option(help="Write the Pareto plot to this HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Propose students: size, memory, latency and quality predicted, the best measured here, one recommended."""
    from dataclasses import asdict

    from stillhouse.models.port import ModelError

    try:
        from stillhouse.distill.architecture.cost_model import calibrated, measure
        from stillhouse.distill.architecture.design import Limits
        from stillhouse.distill.architecture.design import design as design_for
        from stillhouse.distill.architecture.loading import folder_of, shape_of
        from stillhouse.distill.architecture.quality import Trained, train_on_sample
    except ImportError as error:
        fail(f"{error.name} is not installed; install stillhouse[train].")
    out = console()
    limits = Limits(max_latency, None if max_size is None else round(max_size * 1e6), min_quality)
    with nullcontext() if as_json else out.status("measuring this machine") as status:

        def say(line: str) -> None:
            if status is not None:
                status.update(line)

        def told(one: Trained) -> None:
            say(f"{one.layers} layers on {one.texts} texts: agreement {one.agreement:.3f} in {one.seconds:.0f} s")

        try:
            shape = shape_of(folder_of(teacher))
            rows = _rows(data) if data is not None else []
            model = calibrated(lambda done, of: say(f"measuring this machine: {done} of {of} shapes"))
            trained = train_on_sample(rows, (2, 3), sample=sample, on_done=told) if rows else []
            found = design_for(
                shape,
                target,
                limits,
                model,
                lambda one, tokens: measure(one, [tokens])[0][2],
                labels=len({row.label for row in rows}) or labels,
                length=length,
                trained=trained,
                texts=len(rows),
            )
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


def _rows(path: Path) -> list[LabelledText]:
    from stillhouse.distill.data import LabelledText

    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
        return [LabelledText(str(row["text"]), str(row.get("teacher") or row["label"])) for row in rows]
    except (OSError, ValueError, EOFError) as error:
        fail(f"{path}: cannot be read ({error}); give JSON lines with `text` and `label`.")
    except (KeyError, TypeError, AttributeError):
        fail(f"{path}: a row has no `text` or no `label`; give JSON lines with both.")


def _show(found: Design) -> None:
    out = console()
    columns = ("student", "parameters", "MB", "memory MB", "MFLOP", "ms predicted", "ms measured", "quality", "misses")
    show_table(
        columns,
        [
            [
                f"{'* ' if one.on_front else '  '}{one.name}",
                one.parameters,
                one.bytes / 1e6,
                one.memory_bytes / 1e6,
                one.flops / 1e6,
                one.predicted_ms,
                one.measured_ms,
                None if one.quality is None else f"{percent(one.quality)} ({one.basis})",
                ", ".join(one.misses),
            ]
            for one in found.candidates
        ],
        "no candidates",
    )
    out.print(f"* on the Pareto front; the predictions are wrong by {percent(found.cost_model_error)} in the mean")
    out.print()
    for sentence in found.tradeoffs:
        out.print(f"- {sentence}", soft_wrap=True, markup=False)
    if found.recommended is not None:
        out.print()
        out.print(f"recommended: {found.recommended}", soft_wrap=True, markup=False)
        rows = [[name, value, why] for name, (value, why) in found.method.items()]
        show_table(("setting", "value", "source"), rows, "")


def _plot(found: Design, path: Path) -> None:
    from stillhouse.distill.architecture.plots import Dot, scatter, write_page

    known = [one for one in found.candidates if one.quality is not None]
    quality = len(known) == len(found.candidates)
    dots = [
        Dot(one.name, one.ms, one.quality if quality and one.quality is not None else one.bytes / 1e6, one.on_front)
        for one in found.candidates
    ]
    chart = scatter("students", dots, "milliseconds of one text", "expected agreement" if quality else "MB")
    write_page(path, f"Students for {found.target}", [chart, *found.tradeoffs])
