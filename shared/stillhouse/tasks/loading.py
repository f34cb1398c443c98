"""Reading task files: one clear sentence for whatever is wrong in one."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from stillhouse.tasks.comparators.settings import Embedding
from stillhouse.tasks.conditions import Forgetting, GateCondition
from stillhouse.tasks.declaration import Task
from stillhouse.tasks.distillation import KINDS
from stillhouse.tasks.gate import Gate
from stillhouse.tasks.golden import read_golden
from stillhouse.tasks.prices import PRICES_FILE, PriceFileError, load_prices
from stillhouse.tasks.responses import Hallucination
from stillhouse.tasks.students import AnyStudent, StudentCandidate
from stillhouse.tasks.teachers import CrossEncoder

TEACHERS: Final = ("ensemble", "openai", "anthropic", "recorded", "cross_encoder", "rerank_endpoint")


class TaskFileError(Exception):
    """A task file that cannot be used; the message names file, key and mend."""


def load_task(path: Path) -> Task:
    """Read one task file.

    The tables are `[task]`, `[teacher]`, `[[student]]`, `[gate]`, `[audit]`, `[drift]`, `[budget]`, `[review]`,
    `[cascade]`, `[data]`.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskFileError(f"{path}: no such file; name a task file that exists.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError(f"{path}: cannot be read ({error}); make it readable UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise TaskFileError(f"{path}: not valid TOML ({error}); mend the syntax there.") from None
    return _build(raw, path)


def load_tasks(folder: Path) -> dict[str, Task]:
    """Every `*.toml` of a folder, by `<tenant>/<task>`, with the prices of its `prices.toml` where it has one."""
    if not folder.is_dir():
        raise TaskFileError(f"{folder}: no such folder; put task files there or set STILLHOUSE_TASKS.")
    try:
        prices = load_prices(folder)
    except PriceFileError as error:
        raise TaskFileError(str(error)) from None
    tasks: dict[str, Task] = {}
    for path in sorted(folder.glob("*.toml")):
        if path.name == PRICES_FILE:
            continue
        task = load_task(path).model_copy(update={"prices": prices})
        if task.key in tasks:
            raise TaskFileError(f"{path}: task {task.key!r} is declared twice; rename one of them.")
        tasks[task.key] = task
    return tasks


def _build(raw: Mapping[str, Any], path: Path) -> Task:
    known = {"task", "teacher", "student", "gate", "audit", "drift", "budget", "review", "cascade", "data"}
    for table in raw:
        if table == "distill":
            raise TaskFileError(
                f"{path}: [[distill.term]] belongs to a student; write each term as [[student.distill]] below its "
                "[[student]]."
            )
        if table not in known:
            raise TaskFileError(f"{path}: unknown table [{table}]; known are {', '.join(sorted(known))}.")
    for table in ("task", "teacher"):
        if table not in raw:
            raise TaskFileError(f"{path}: table [{table}] is missing; add it.")
    if not isinstance(raw["task"], dict):
        raise TaskFileError(f"{path}: `task` must be a table; write [task].")
    fields: dict[str, Any] = {**raw["task"], "teacher": raw["teacher"], "students": raw.get("student", ())}
    fields |= {
        name: raw[name] for name in ("gate", "audit", "drift", "budget", "review", "cascade", "data") if name in raw
    }
    try:
        task = Task.model_validate(fields)
    except ValidationError as error:
        raise TaskFileError(_sentence(error, path)) from None
    teacher = task.teacher
    for key in ("seed", "file"):  # what a teacher reads
        named = getattr(teacher, key, None)
        if named is None:
            continue
        if not (path.parent / named).is_file():
            raise TaskFileError(
                f"{path}: teacher.{key} names {path.parent / named}, which does not exist; name a JSONL file."
            )
        teacher = teacher.model_copy(update={key: (path.parent / named).resolve()})
    if isinstance(teacher, CrossEncoder):
        folder = (path.parent / teacher.folder).resolve()
        if not folder.is_dir():
            raise TaskFileError(
                f"{path}: teacher.folder names {folder}, which does not exist; name an artefact's folder."
            )
        teacher = teacher.model_copy(update={"folder": folder})
    changes: dict[str, Any] = {"teacher": teacher, "gate": _with_files(task, path)}
    changes |= {"response_schema": _schema(task, path), "students": _students(task, path)}
    return task.model_copy(update=changes)


def _students(task: Task, path: Path) -> tuple[AnyStudent, ...]:
    """The students, with the whole paths of the vectors that they start from."""
    found = []
    for place, student in enumerate(task.students):
        if isinstance(student, StudentCandidate) and student.vectors is not None:
            folder = (path.parent / student.vectors).resolve()
            if not folder.is_dir():
                raise TaskFileError(
                    f"{path}: student.{place}.vectors names {folder}, which does not exist; name a Model2Vec folder."
                )
            student = student.model_copy(update={"vectors": folder})
        found.append(student)
    return tuple(found)


def _schema(task: Task, path: Path) -> Path | None:
    """The whole path of the schema of the task's answers, which is read once so that its mistakes show now."""
    if task.response_schema is None:
        return None
    schema = (path.parent / task.response_schema).resolve()
    try:
        found = json.loads(schema.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskFileError(f"{path}: task.response_schema: {schema} is no JSON Schema ({error}); mend it.") from None
    if not isinstance(found, dict):
        raise TaskFileError(f"{path}: task.response_schema: {schema} holds no JSON object; write a JSON Schema.")
    return schema


def _with_files(task: Task, path: Path) -> Gate:
    """The gate with the whole paths of its files, which are read once so that their mistakes show now."""
    gate = task.gate
    changes: dict[str, Any] = {}
    try:
        if gate.golden is not None:
            changes["golden"] = (path.parent / gate.golden).resolve()
            read_golden(changes["golden"], task.labels)
        if any(isinstance(one, Hallucination | Forgetting) for one in gate.condition):
            changes["condition"] = tuple(_with_paths(one, path.parent) for one in gate.condition)
        if isinstance(gate.comparator, Embedding):
            from stillhouse.tasks.comparators.similarity import read_pairs  # imports the statistics

            pairs = (path.parent / gate.comparator.pairs).resolve()
            read_pairs(pairs)
            changes["comparator"] = gate.comparator.model_copy(update={"pairs": pairs})
    except ValueError as error:
        raise TaskFileError(f"{path}: gate: {error}; mend that file or name another.") from None
    return gate.model_copy(update=changes)


def _with_paths(condition: GateCondition, folder: Path) -> GateCondition:
    """A condition with the whole path of its file. ValueError where that cannot be read."""
    for key in ("catalogue", "probes"):
        named: Path | None = getattr(condition, key, None)
        if named is not None:
            whole = (folder / named).resolve()
            if not whole.is_file():
                raise ValueError(f"{condition.kind}.{key} names {whole}, which does not exist")
            condition = condition.model_copy(update={key: whole})
    return condition


def _sentence(error: ValidationError, path: Path) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if where and where[0] == "teacher":  # the kind, by which it is told which keys there are, is no key
        where[1:2] = [] if where[1:2] in [[kind] for kind in TEACHERS] else where[1:2]
    if where and where[0] == "students":
        where[0] = "student"
        where = [part for part in where if part not in ("classifier", "language_model", "reranker")]
        if where[2:3] == ["distill"]:  # a term's kind is no key either
            where[4:5] = [] if where[4:5] in [[kind] for kind in KINDS] else where[4:5]
    elif where and where[0] not in {"teacher", "gate", "audit", "drift", "budget", "review", "cascade", "data"}:
        where.insert(0, "task")
    key = ".".join(where) or "task"
    mend = {
        "extra_forbidden": "there is no such key; remove it or correct its name",
        "missing": "the key is missing; add it",
    }.get(first["type"], f"{first['msg'].removeprefix('Value error, ')}; got {first.get('input')!r}"[:300])
    more = len(error.errors()) - 1
    return f"{path}: {key}: {mend}" + (f" ({more} more like this)." if more else ".")
