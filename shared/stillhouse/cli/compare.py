"""`stillhouse students`: every student (`students`, `students show`), and two side by side (`students compare`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.cli._common import HOME, AsJson, Home, ShowByDefault, console, fail, percent, show_json, show_table
from stillhouse.cli.watching import students as show

if TYPE_CHECKING:
    from stillhouse.quality.paired import Paired

FEWEST_IN_SLICE = 20
LONG = (5, 12)  # words: short texts have at most the first, long ones more than the second


app = typer.Typer(
    cls=ShowByDefault,
    help="Every student and how far it came (students), and two of them side by side (students compare A B).",
)
app.command(name="show", help="Show every student; `students` does the same.")(show)


@dataclass(frozen=True, slots=True)
class Case:
    """One case that both students answered. `right_a`, `right_b`: whether each said what the teacher says."""

    text: str | None
    teacher: str
    said_a: str
    said_b: str
    right_a: bool
    right_b: bool
    group: str | None
    time: str | None


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A student's id, how it begins, or an artefact's folder.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    data: Annotated[
        Path | None, typer.Option(help="Texts with answers (.jsonl, .jsonl.gz, .csv, a folder): both are asked now.")
    ] = None,
    failures: Annotated[int, typer.Option(min=0, help="Cases to show of each kind that one alone has right.")] = 5,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Compare two students on the same cases: who agrees more with the teacher, where, and on which cases they differ.

    Without --data the cases are those that the offline gates of both judged; A and B may then be of one task alone.
    """
    from stillhouse.quality.paired import compare_pairs

    try:
        cases, named = _asked(a, b, data, home) if data is not None else _judged(a, b, home)
        whole = compare_pairs((case.right_a, case.right_b) for case in cases)
    except ValueError as error:
        fail(f"{error}.")
    slices = _slices(cases)
    only_a = [case for case in cases if case.right_a and not case.right_b]
    only_b = [case for case in cases if case.right_b and not case.right_a]
    neither = [case for case in cases if not case.right_a and not case.right_b]
    if as_json:
        shown = {"only_a_right": only_a, "only_b_right": only_b, "neither_right": neither}
        show_json(
            {
                "a": named[0],
                "b": named[1],
                "cases_from": str(data) if data is not None else "offline gates",
                **_as_json(whole),
                "slices": [
                    {"slice": name, **_as_json(of), "p_value_adjusted": adjusted} for name, of, adjusted in slices
                ],
                "failures": {kind: [asdict(case) for case in found[:failures]] for kind, found in shown.items()},
            }
        )
        return
    out = console()
    out.print(f"A  {named[0]}\nB  {named[1]}", markup=False, soft_wrap=True)
    out.print(_sentence(whole), markup=False, soft_wrap=True)
    if slices:
        out.print()
    show_table(
        ["slice", "cases", "A agrees", "B agrees", "A – B", "interval", "p (Holm)"],
        [
            [name, of.n, percent(of.agreement_a), percent(of.agreement_b), _points(of.difference), _interval(of), p]
            for name, of, p in slices
        ],
        "No slice has enough cases to speak of.",
    )
    for title, found in (("Only A is right", only_a), ("Only B is right", only_b), ("Neither is right", neither)):
        if found and failures:
            out.print(f"\n{title}: {len(found):,} cases", markup=False)
            rows = [[_short(case.text), case.teacher, case.said_a, case.said_b] for case in found[:failures]]
            show_table(["text", "teacher", "A", "B"], rows, "")


def _sentence(of: Paired) -> str:
    sure = "no evidence of a difference"
    if of.p_value < 0.05:
        sure = f"{'A' if of.difference > 0 else 'B'} agrees more with the teacher"
    return (
        f"On {of.n:,} cases A agrees on {percent(of.agreement_a)} and B on {percent(of.agreement_b)}: "
        f"A – B is {_points(of.difference)} points ({_interval(of)}). "
        f"Only A is right on {of.only_a:,}, only B on {of.only_b:,}: "
        f"{sure} (exact McNemar p = {of.p_value:.3g}; at any time: e = {max(of.e_a, of.e_b):.3g} for "
        f"{'A' if of.e_a >= of.e_b else 'B'}, 20 is evidence at 5 %)."
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _interval(of: Paired) -> str:
    return f"{_points(of.low)} to {_points(of.high)}"


def _short(text: str | None) -> str:
    plain = " ".join((text or "(erased)").split())
    return plain if len(plain) <= 70 else plain[:69] + "…"


def _as_json(of: Paired) -> dict[str, Any]:
    return {**asdict(of), "agreement_a": of.agreement_a, "agreement_b": of.agreement_b}


def _slices(cases: Sequence[Case]) -> list[tuple[str, Paired, float]]:
    """Slices of at least 20 cases, the most telling first, with p-values adjusted for all that were looked at."""
    from stillhouse.quality.paired import compare_pairs, holm

    kinds: dict[str, Callable[[Case], str | None]] = {
        "label": lambda case: case.teacher,
        "length": _length,
        "group": lambda case: case.group,
        "month": lambda case: case.time[:7] if case.time else None,
    }
    found: dict[str, list[tuple[bool, bool]]] = {}
    for case in cases:
        for kind, of in kinds.items():
            if name := of(case):
                found.setdefault(f"{kind} {name}", []).append((case.right_a, case.right_b))
    compared = [(name, compare_pairs(pairs)) for name, pairs in found.items() if len(pairs) >= FEWEST_IN_SLICE]
    adjusted = holm([of.p_value for _, of in compared])
    rows = [(name, of, p) for (name, of), p in zip(compared, adjusted, strict=True)]
    return sorted(rows, key=lambda row: (row[1].p_value, -abs(row[1].difference), row[0]))


def _length(case: Case) -> str | None:
    if case.text is None:
        return None
    words = len(case.text.split())
    return (
        f"up to {LONG[0]} words"
        if words <= LONG[0]
        else f"{LONG[0] + 1} to {LONG[1]} words"
        if words <= LONG[1]
        else (f"over {LONG[1]} words")
    )


def _asked(a: str, b: str, data: Path, home: Path) -> tuple[list[Case], tuple[str, str]]:
    """What both artefacts answer to the rows of `data`; of a folder with a `test` part, to that."""
    from rich.progress import Progress

    from stillhouse.cli.labelled import read_labelled
    from stillhouse.models.artefact import verify
    from stillhouse.models.port import ModelError
    from stillhouse.models.student import OnnxStudent

    rows = read_labelled(data)
    rows = [row for row in rows if row.split == "test"] or rows
    folders = [_folder(name, home) for name in (a, b)]
    try:
        models = [OnnxStudent(verify(folder)) for folder in folders]
        with Progress(console=_stderr(), transient=True) as progress:
            bar = progress.add_task("asking both", total=len(rows))
            cases = []
            for row in rows:
                said_a, said_b = (model.predict_text(row.text)[0] for model in models)
                right = (said_a == row.answer, said_b == row.answer)
                cases.append(Case(row.text, row.answer, said_a, said_b, *right, row.group, row.time))
                progress.advance(bar)
    except ModelError as error:
        raise ValueError(str(error).rstrip(".")) from None
    return cases, (models[0].student_id or folders[0].name, models[1].student_id or folders[1].name)


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _folder(name: str, home: Path) -> Path:
    if Path(name).is_dir():
        return Path(name)
    found = sorted(home.glob(f"artefacts/{name}*"))
    exact = [path for path in found if path.name == name]
    if not found:
        raise ValueError(f"{name!r} is neither a folder nor a student of {home}; `stillhouse students` names them")
    if len(found) > 1 and not exact:
        raise ValueError(f"{name!r} begins the ids of {len(found)} students: {', '.join(path.name for path in found)}")
    return (exact or found)[0]


def _judged(a: str, b: str, home: Path) -> tuple[list[Case], tuple[str, str]]:
    """The cases that the offline gates of both judged, with their texts where the store still has them."""
    from stillhouse.store import Store

    gates = _gates(home)
    first, second = (_one(name, gates, home) for name in (a, b))
    if gates[first]["task"] != gates[second]["task"]:
        tasks = f"{gates[first]['task']} and {gates[second]['task']}"
        raise ValueError(f"{first} and {second} are students of two tasks, {tasks}; compare students of one")
    of_b = {case["case_id"]: case for case in gates[second]["outcomes"]}
    both = [(case, of_b[case["case_id"]]) for case in gates[first]["outcomes"] if case["case_id"] in of_b]
    if not both:
        raise ValueError(
            f"the gates of {first} and {second} judged no case in common; name labelled texts with --data FILE"
        )
    ids = [case["case_id"] for case, _ in both]
    table = Store(home / "store").examples_named(gates[first]["task"], ids)
    texts = {row["example_id"]: row["input"] for row in table.to_pylist()}
    cases = [
        Case(
            texts.get(one["case_id"]),
            one["teacher"],
            one["label"],
            two["label"],
            _agrees(one),
            _agrees(two),
            one.get("group"),
            one.get("time"),
        )
        for one, two in both
    ]
    return cases, (first, second)


def _agrees(outcome: dict[str, Any]) -> bool:
    """As `Outcome.same` of the validator: what the task's comparator said, else whether the labels are the same."""
    agrees = outcome.get("agrees")
    return bool(outcome["label"] == outcome["teacher"] if agrees is None else agrees)


def _gates(home: Path) -> dict[str, dict[str, Any]]:
    """Task and outcomes of every student whose offline gate kept some."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(home.glob("jobs/*/outcomes.json")):
        try:
            job = json.loads((path.parent / "job.json").read_text(encoding="utf-8"))
            student, outcomes = job["student"], json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError):
            continue  # a gate that is being written
        task = f"{student.get('tenant', 'default')}/{student['task']}"
        found[student["student_id"]] = {"task": task, "outcomes": outcomes}
    return found


def _one(name: str, gates: dict[str, dict[str, Any]], home: Path) -> str:
    found = [student for student in gates if student.startswith(name)]
    if name in found:
        return name
    if not found:
        raise ValueError(f"no gate of {home} judged a student {name!r}; name labelled texts with --data FILE")
    if len(found) > 1:
        raise ValueError(f"{name!r} begins the ids of {len(found)} students: {', '.join(found)}")
    return found[0]
