"""What the demo of a writing task plays: recorded answers to learn from, others to be judged on, and its task file."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final

from stillhouse.demo.data import DataError
from stillhouse.demo.source import Plan, Sizes, replace_text, to_toml
from stillhouse.demo.writing.sample import Pair, generate
from stillhouse.tasks import Task, load_task

BASE: Final = "smollm2-135m-instruct"
SUFFIXES: Final = (".jsonl", ".jsonl.gz")
FEWEST: Final = 300
MOST_TAUGHT: Final = 1300  # recorded answers of a student: about 20 minutes of training on two cores
SAMPLE_TAUGHT: Final = 600
SAMPLE_REST: Final = 3000
MOST_CHOICES: Final = 12  # values of a key of answers that count as all there are
SEEN_EACH: Final = 3  # times, each of those, at the least


@dataclass(frozen=True, slots=True)
class Sizing:
    """How large the demo is; tests play a smaller one with a base of their own."""

    base: str = BASE
    taught: int | None = None  # None: as many as there is time for
    method: str = "lora"
    learning_rate: float | None = None
    epochs: float = 1.0
    served: int = 150  # requests with the student live, before the demo ends
    shadow_requests: int = 30
    quantization: str = "auto"
    min_coverage: float = 0.02  # any share that pays is worth seeing; the gate's payback says whether it does


@dataclass(frozen=True, slots=True)
class WritingPlan:
    """The plan of the reports, and the two parts of the traffic, which share no answer."""

    plan: Plan
    taught: tuple[Pair, ...]
    rest: tuple[Pair, ...]
    json_answers: bool


def plan_writing(data: Path | None, seed: int, sizing: Sizing) -> WritingPlan:
    """The authored sample, or the user's own recorded answers. Raises `DataError`."""
    if data is None:
        wanted = sizing.taught or SAMPLE_TAUGHT
        pairs = list(itertools.islice(generate(seed), 4 * wanted + SAMPLE_REST))
        origin = "an authored sample: orders to an imagined manga shop and their JSON, both made by a grammar"
    else:
        file = file_of(data)
        pairs = list(read_pairs(file))
        wanted = min(sizing.taught or MOST_TAUGHT, len(pairs) // 2)
        origin = f"{len(pairs):,} recorded answers from {file}"
    taught, rest = _by_group(pairs, wanted, random.Random(seed))
    if len(taught) < FEWEST // 2 or len(rest) < FEWEST // 2:
        raise DataError(
            f"{data} has too few recorded answers for a demo; {FEWEST:,} with different outputs are needed."
        )
    name = "orders" if data is None else "demo-llm"
    plan = Plan(name, data is None, origin, (), (), (), (), (), Sizes(len(taught), 10**9, 0, sizing.served))
    return WritingPlan(plan, tuple(taught), tuple(rest), all(_is_object(pair.output) for pair in taught))


def file_of(path: Path) -> Path:
    """`path`, or the training file of a folder: its other parts may be drawn otherwise. Raises `DataError`."""
    if path.is_dir():
        found = next((path / f"train{end}" for end in SUFFIXES if (path / f"train{end}").is_file()), None)
        if found is None:
            raise DataError(f"{path} holds no train.jsonl; name a file of rows with `input` and `output`.")
        return found
    if not path.name.endswith(SUFFIXES) or not path.is_file():
        raise DataError(f"{path}: no such .jsonl or .jsonl.gz file; name one with `input` and `output` in each row.")
    return path


def read_pairs(path: Path) -> Iterator[Pair]:
    """The rows of a file, each `input` once. Raises `DataError`."""
    opened = gzip.open if path.suffix == ".gz" else open
    seen: set[str] = set()
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                asked, said = (row.get("input"), row.get("output")) if isinstance(row, dict) else (None, None)
                if not isinstance(asked, str) or not isinstance(said, str) or not asked or not said:
                    raise DataError(f"{path}:{number}: a row needs `input` and `output`, both text; add them.")
                if asked not in seen:
                    seen.add(asked)
                    yield Pair(asked, said, _canonical(said))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give UTF-8 JSON lines.") from None


def write_task(plan: WritingPlan, folder: Path, sizing: Sizing) -> Task:
    """Write the task with its recording, and its schema where answers are JSON objects; load it. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = plan.plan.task
    rows = (json.dumps({"input": p.input, "output": p.output}, ensure_ascii=False) for p in (*plan.taught, *plan.rest))
    replace_text(folder / f"{name}.answers.jsonl", "\n".join(rows) + "\n")
    task: dict[str, Any] = {
        "name": name,
        "kind": "generate",
        "description": "A line of an order, as JSON" if plan.plan.sample else "What a recorded teacher wrote",
        "group_by": "group",
        "max_input_chars": max(8000, *(len(pair.input) for pair in (*plan.taught, *plan.rest))),
    }
    if plan.json_answers:
        schema = schema_of([pair.output for pair in plan.taught])
        replace_text(folder / f"{name}.schema.json", json.dumps(schema, indent=1, ensure_ascii=False))
        task["response_schema"] = f"{name}.schema.json"
    longest = max(len(pair.output) for pair in (*plan.taught, *plan.rest))
    student: dict[str, Any] = {
        "architecture": "causal_lm",
        "base": sizing.base,
        "method": sizing.method,
        "epochs": sizing.epochs,
        "batch_size": 512,
        "step_tokens": 1024,
        "max_tokens": 768,
        "max_new_tokens": max(48, min(512, longest // 2)),
        "quantization": sizing.quantization,
        "max_quantization_loss": 0.02,
    }
    if sizing.learning_rate is not None:
        student["learning_rate"] = sizing.learning_rate
    tables: dict[str, Any] = {
        "task": task,
        "teacher": {
            "kind": "recorded",
            "file": f"{name}.answers.jsonl",
            "usd_per_call": 0.002,
            "price_source": "assumed by the demo: a recorded teacher costs nothing to replay",
        },
        "student": [student],
        "gate": {
            "comparator": {"kind": "json"} if plan.json_answers else {"kind": "exact"},
            "min_coverage": sizing.min_coverage,
            "shadow_requests": sizing.shadow_requests,
            "canary_share": 1.0,
            # Two cores train, judge and serve here; a student that writes takes seconds on them.
            "latency_p99_ms": 60_000.0,
            "student_timeout_ms": 60_000.0,
            "max_error_rate": 0.05,
        },
        "audit": {"pi": 0.2},
        "budget": {"min_examples": len(plan.taught), "min_new_examples": 1_000_000_000},
    }
    path = folder / f"{name}.toml"
    replace_text(
        path, f"# Written by `stillhouse demo-llm`. A task of real life takes more examples.\n\n{to_toml(tables)}"
    )
    return load_task(path)


def schema_of(outputs: Sequence[str]) -> dict[str, Any]:
    """A JSON Schema that all `outputs`, JSON objects, follow: their keys and types, and values where these are few."""
    seen: dict[str, list[Any]] = {}
    before: dict[str, set[str]] = {}  # keys that some answer writes earlier
    for output in outputs:
        answer = json.loads(output)
        for place, (key, value) in enumerate(answer.items()):
            seen.setdefault(key, []).append(value)
            before.setdefault(key, set()).update(list(answer)[:place])
    try:
        # A model that is held to a schema writes its properties in their order, and can leave out but not go back.
        order = list(TopologicalSorter(before).static_order())
    except CycleError:
        return {"type": "object"}
    return {
        "type": "object",
        "properties": {key: _values(seen[key]) for key in order},
        "required": [key for key in order if len(seen[key]) == len(outputs)],
        "additionalProperties": False,
    }


def _values(values: list[Any]) -> dict[str, Any]:
    if all(isinstance(value, bool) for value in values):
        return {"type": "boolean"}
    if all(isinstance(value, int) for value in values):
        return {"type": "integer"}
    if all(isinstance(value, int | float) for value in values):
        return {"type": "number"}
    if not all(isinstance(value, str) for value in values):
        return {}
    distinct = sorted(set(values))
    if len(distinct) <= MOST_CHOICES and all(values.count(value) >= SEEN_EACH for value in distinct):
        return {"enum": distinct}
    return {"type": "string"}


def _by_group(pairs: list[Pair], wanted: int, rng: random.Random) -> tuple[list[Pair], list[Pair]]:
    """About `wanted` pairs, whole groups of them, and the others."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    names = list(groups)
    rng.shuffle(names)
    taught: list[Pair] = []
    rest: list[Pair] = []
    for name in names:
        (taught if len(taught) < wanted else rest).extend(groups[name])
    rng.shuffle(rest)
    return taught[:wanted], rest


def _canonical(output: str) -> str:
    try:
        return json.dumps(json.loads(output), sort_keys=True)
    except ValueError:
        return output


def _is_object(output: str) -> bool:
    try:
        return isinstance(json.loads(output), dict)
    except ValueError:
        return False
