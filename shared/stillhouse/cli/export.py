"""`stillhouse export`: a student for another target, compared with torch on real texts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import HOME, AsJson, Home, console, fail, percent, show_json

if TYPE_CHECKING:
    from stillhouse.distill.targets.exporting import TargetReport


def export(
    student: Annotated[str, typer.Argument(help="A student's id, or the folder of its artefact.")],
    target: Annotated[str, typer.Option(help="onnx, litert, coreml, executorch, web or vllm (server GPUs).")],
    data: Annotated[Path, typer.Option(help="Texts to compare with torch on (.jsonl, .jsonl.gz, .csv, a folder).")],
    out: Annotated[Path, typer.Option(help="Folder that the files go to.")] = Path("exported"),
    precision: Annotated[
        str, typer.Option(help="int8 or fp32; onnx and web are as the student serves, vllm is fp32.")
    ] = "int8",
    length: Annotated[int, typer.Option(min=2, help="Tokens of a text where the target's shapes are fixed.")] = 64,
    limit: Annotated[int, typer.Option(min=1, help="Texts that are compared, at most.")] = 1000,
    least_agreement: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of texts that must get torch's label; exit status 2 below it."),
    ] = 0.97,
    program: Annotated[
        Path | None, typer.Option(help="The trained module, where the trainer did not keep it in its home.")
    ] = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Convert a student, compare its answers with torch's, measure it, and say what could not be verified here.

    Ends with status 2 where it was run and agrees too seldom; the file is kept. What cannot be run here (Core ML) is
    not verified either, and ends with 0.
    """
    from dataclasses import asdict

    from stillhouse.cli.labelled import read_texts
    from stillhouse.models.port import ModelError

    try:
        from stillhouse.distill.targets.exporting import TARGETS, export_for
    except ImportError as error:
        fail(f"{error.name} is not installed; install stillhouse[train].")
    chosen = next((one for one in TARGETS if one == target), None)
    if chosen is None:
        fail(f"There is no target {target!r}; targets are {', '.join(TARGETS)}.")
    if precision not in ("int8", "fp32"):
        fail(f"There is no precision {precision!r}; choose int8 or fp32.")
    folder = Path(student) if Path(student).is_dir() else home / "artefacts" / student
    if not folder.is_dir():
        fail(f"There is no student {student!r}: no such folder, and none in {home / 'artefacts'}.")
    try:
        texts = read_texts(data, limit)
    except ValueError as error:
        fail(f"{str(error).rstrip('.')}.")
    console_ = console()
    with nullcontext() if as_json else console_.status(f"exporting for {chosen}") as status:

        def show(line: str) -> None:
            if status is not None:
                from rich.text import Text

                status.update(Text(line[: max(20, console_.width - 4)]))

        try:
            report = export_for(
                chosen,
                folder,
                texts,
                out,
                precision="int8" if precision == "int8" else "fp32",
                length=length,
                program=program,
                least_agreement=least_agreement,
                on_line=show,
            )
        except (ModelError, OSError) as error:
            fail(str(error))
    if as_json:
        show_json(asdict(report))
    else:
        _show(report)
    if report.agreement_with_torch is not None and not report.verified:
        raise typer.Exit(2)


def _show(report: TargetReport) -> None:
    out = console()

    def say(line: str) -> None:
        out.print(line, soft_wrap=True, markup=False)

    say(f"{report.file}: {report.bytes / 1e6:,.1f} MB, {report.precision}, by {report.exporter}")
    if report.agreement_with_torch is not None:
        largest = "–" if report.max_abs_logit_difference is None else f"{report.max_abs_logit_difference:.2g}"
        say(
            f"agrees with torch on {percent(report.agreement_with_torch)} of {report.n_compared:,} texts; "
            f"largest difference of a logit {largest}"
            + (f"; {report.n_truncated} texts were cut" if report.n_truncated else "")
        )
        say(
            f"{report.p50_ms:.2f} ms a text (p95 {report.p95_ms:.2f}) on one thread here, "
            f"{(report.memory_bytes or 0) / 1e6:,.0f} MB of memory"
        )
    say(f"{'verified' if report.verified else 'NOT VERIFIED'}: {report.verdict}")
    if report.not_verified:
        say(report.not_verified)
