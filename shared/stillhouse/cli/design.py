"""`stillhouse design`: student architectures for a target, with what they cost and how good they will be."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import AsJson, console, fail, percent, show_json, show_table

if TYPE_CHECKING:
    from stillhouse.distill.architecture.design import Design
    from stillhouse.distill.data import LabelledText


def design(
    teacher: Annotated[
        str,
        typer.Option(help="`minilm`, which students are cut from, or a folder with another encoder's config.json."),
    ] = "minilm",
    target: Annotated[str, typer.Option(help="onnx, litert, coreml, executorch or web.")] = "onnx",
    max_latency: Annotated[float | None, typer.Option(help="Milliseconds of one text, at most.")] = None,
    max_size: Annotated[float | None, typer.Option(help="MB of the file, at most.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="Agreement with the teacher, at least, 0 to 1.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Texts with answers, to measure quality on (.jsonl, .jsonl.gz, .csv, a folder)."),
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
        from stillhouse.distill.architecture.cost_model import calibrated
        from stillhouse.distill.architecture.design import Limits, require_target
        from stillhouse.distill.architecture.design import design as design_for
        from stillhouse.distill.architecture.encoder_graph import cost_of
        from stillhouse.distill.architecture.loading import folder_of, shape_of
        from stillhouse.distill.architecture.quality import Trained, train_on_sample
        from stillhouse.distill.architecture.small_students import train_small
        from stillhouse.distill.cut_encoder import encoder_source
    except ImportError as error:
        fail(f"{error.name} is not installed; install stillhouse[train].")
    out = console()
    limits = Limits(max_latency, None if max_size is None else round(max_size * 1e6), min_quality)
    with nullcontext() if as_json else out.status("measuring this machine") as status:

        def say(line: str) -> None:
            if status is not None:
                status.update(line)

        def told(one: Trained) -> None:
            name = f"{one.layers} layers" if one.layers else one.architecture
            say(f"{name} on {one.texts} texts: agreement {one.agreement:.3f} in {one.seconds:.0f} s")

        try:
            require_target(target)
            folder = folder_of(teacher)
            shape, cuttable = shape_of(folder), teacher == "minilm"
            rows = _rows(data) if data is not None else []
            trained = train_on_sample(rows, (2, 3), sample=sample, on_done=told) if rows else []
            small = train_small(rows, sample=sample, length=length, on_done=told) if rows else []
            model = calibrated(lambda done, of: say(f"measuring this machine: {done} of {of} shapes"))
            found = design_for(
                shape,
                target,
                limits,
                model,
                cost_of,
                labels=len({row.label for row in rows}) or labels,
                length=length,
                trained=trained,
                texts=len(rows),
                small=small,
                cuttable=cuttable,
                own=shape_of(encoder_source()) if rows and not cuttable else None,
                soft=not rows or any(row.distribution for row in rows),
            )
            if plot is not None:
                _plot(found, plot)
        except (ModelError, OSError) as error:
            fail(str(error))
        except ValueError as error:
            fail(f"{str(error).rstrip('.')}.")
    if as_json:
        show_json(asdict(found))
        return
    _show(found)
    if plot is not None:
        out.print(f"plot: {plot}", soft_wrap=True, markup=False)


def _rows(path: Path) -> list[LabelledText]:
    """The texts of a file or folder with their answers; a part called `test` stays unseen where there are others."""
    from stillhouse.cli.labelled import read_labelled
    from stillhouse.distill.data import LabelledText

    found = read_labelled(path)
    found = [row for row in found if row.split != "test"] or found
    return [LabelledText(row.text, row.answer, row.distribution) for row in found]


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
                f"~{one.memory_bytes / 1e6:.1f}"
                if one.measured_memory_bytes is None
                else f"{one.measured_memory_bytes / 1e6:.1f}",
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
    out.print(
        f"* on the Pareto front; latency is predicted {percent(found.cost_model_error)} wrong in the mean; "
        "memory is the peak of loading and answering, with ~ predicted, else measured in a process of its own",
        soft_wrap=True,
    )
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

    known = [one for one in found.candidates if one.basis == "curves" and one.quality is not None]
    dots = [
        Dot(one.name, one.ms, one.bytes / 1e6 if one.quality is None or not known else one.quality, one.on_front)
        for one in known or found.candidates
    ]
    chart = scatter("students", dots, "milliseconds of one text", "expected agreement" if known else "MB")
    write_page(path, f"Students for {found.target}", [chart, *found.tradeoffs])
