"""What the demo plays: a labelled seed for the teacher, traffic, and the traffic after it changed."""

from __future__ import annotations

import itertools
import json
import os
import random
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillhouse.demo.data import DataError, late_groups, read_messages, stratified
from stillhouse.demo.grammar import LABELS, Message, generate
from stillhouse.demo.phrases import DOMAINS
from stillhouse.tasks import Task, load_task

LATE_SHARE: Final = 0.7  # of the changed traffic is of groups that only the teacher knows
MOST_TRAINED: Final = 6000
FEWEST: Final = 4000  # messages that two trainings and six gates take at the least
SAMPLE_LATE: Final = ("catalogue",)
SAMPLE_SEED_ROWS: Final = 2500
SAMPLE_TRAFFIC: Final = 54_000  # of each part; the time is over before it is sent


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: smaller than a task of real life would choose, so that the loop is seen in minutes."""

    min_examples: int
    min_new_examples: int
    served_before: int  # requests with the first student live, before the traffic changes
    served_after: int  # and with the second one live, before the demo ends
    shadow_requests: int = 150
    canary_share: float = 0.5
    pi: float = 0.2
    average_run_length: int = 1_000_000
    max_cases: int = 5000


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first request. `first` and `second` are traffic, in sending order."""

    task: str
    sample: bool
    origin: str  # what the messages are, in words
    labels: tuple[str, ...]
    seed: tuple[Message, ...]
    first: tuple[Message, ...]
    second: tuple[Message, ...]
    late: tuple[str, ...]  # groups that only `second` has
    sizes: Sizes

    @property
    def limited(self) -> bool:
        """Whether messages are scarce: the user's own are sent once each."""
        return not self.sample


def plan_sample(seed: int) -> Plan:
    """The generated sample: three catalogue intents arrive late."""
    late = [label for domain in SAMPLE_LATE for label in DOMAINS[domain]]
    known = [label for label in LABELS if label not in late]
    rng = random.Random(seed)
    rows = list(itertools.islice(generate(rng.getrandbits(32)), SAMPLE_SEED_ROWS))
    asked = {message.text.casefold() for message in rows}
    old = _unseen(generate(rng.getrandbits(32), known), asked)
    new = _unseen(generate(rng.getrandbits(32), late, escalations=0.0), asked)
    first = tuple(itertools.islice(old, SAMPLE_TRAFFIC))
    second = tuple(next(new if rng.random() < LATE_SHARE else old) for _ in range(SAMPLE_TRAFFIC))
    # A student near the floor is not argued about for minutes: the next rung has its turn.
    sizes = Sizes(min_examples=3000, min_new_examples=2000, served_before=1500, served_after=600, max_cases=2500)
    origin = "a generated sample: messages of an imagined manga shop, made by a grammar, written by nobody"
    return Plan("manga-support", True, origin, LABELS, tuple(rows), first, second, SAMPLE_LATE, sizes)


def plan_data(path: Path, seed: int) -> Plan:
    """The user's own labelled messages (see `read_messages`). Raises `DataError`."""
    messages = read_messages(path)
    labels = tuple(sorted({message.label for message in messages}))
    if len(labels) < 3:
        raise DataError(f"{path} has {len(labels)} labels; with fewer than 3 no traffic can change. Add some.")
    if len(messages) < FEWEST:
        raise DataError(
            f"{path} has {len(messages):,} distinct messages; the demo needs {FEWEST:,}: each is sent once, and two "
            "students are trained and judged on them. Add some."
        )
    rng = random.Random(seed)
    rows, rest = stratified(messages, min(0.25, 6000 / len(messages)), rng)
    late = late_groups(messages, rng)
    new = [message for message in rest if message.group in late]
    old = [message for message in rest if message.group not in late]
    of_old = min(len(old) // 3, round(len(new) * (1 - LATE_SHARE) / LATE_SHARE))
    second = new + old[:of_old]
    rng.shuffle(second)
    first = old[of_old:]
    sizes = Sizes(
        min_examples=max(300, min(20_000, len(first) // 2)),
        min_new_examples=max(300, min(20_000, len(second) // 4)),
        served_before=max(200, min(1500, len(first) // 6)),
        served_after=max(100, min(600, len(second) // 12)),
    )
    origin = f"{len(messages):,} messages with {len(labels)} labels from {path}"
    return Plan("demo", False, origin, labels, tuple(rows), tuple(first), tuple(second), late, sizes)


def write_task(plan: Plan, folder: Path, example: Path) -> Task:
    """Write `<folder>/<task>.toml` and its seed, and load them as the services will. Raises `OSError`.

    The sample has everything of the example task but the sizes; own data gets the labels found, and a declared price.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seed = f"{plan.task}.seed.jsonl"
    lines = (json.dumps({"text": row.text, "label": row.label}, ensure_ascii=False) + "\n" for row in plan.seed)
    replace_text(folder / seed, "".join(lines))
    given: dict[str, Any] = tomllib.loads(example.read_text(encoding="utf-8"))
    if plan.sample:
        header = f"The task of {example.name}, with sizes for a demo of minutes."
        tables = {"task": given["task"], "teacher": given["teacher"] | {"seed": seed}, "student": given["student"]}
    else:
        header = "Labels found in the data; the price is an assumption of the demo: nobody has declared one."
        teacher = {
            "kind": "ensemble",
            "seed": seed,
            "usd_per_call": 0.002,
            "price_source": "assumed by the demo: list price of one LLM call",
        }
        longest = max(len(row.text) for rows in (plan.seed, plan.first, plan.second) for row in rows)
        task = {
            "name": plan.task,
            "kind": "classify",
            "description": f"Label of a message, {len(plan.labels)} labels",
            "max_input_chars": max(8000, longest),
            "labels": list(plan.labels),
        }
        tables = {"task": task, "teacher": teacher, "student": given["student"]}
    sizes = plan.sizes
    tables |= {
        "gate": {
            "shadow_requests": sizes.shadow_requests,
            "canary_share": sizes.canary_share,
            "max_cases": sizes.max_cases,
            # Students are trained and judged on the same cores that serve.
            "latency_p99_ms": 1000.0,
            "student_timeout_ms": 2000.0,
        },
        # A learned confidence escalates most of what is new, and recalibration mends the rest: there would be no broken
        # promise to see.
        "cascade": {"confidence": "max_probability", "recalibrate_every": 0},
        "audit": {"pi": sizes.pi},
        "drift": {"average_run_length": sizes.average_run_length},
        "budget": {
            "min_examples": sizes.min_examples,
            "min_new_examples": sizes.min_new_examples,
            # The second rung learns some hundred texts a second: more of them would outlast a demo.
            "max_train_examples": max(MOST_TRAINED, sizes.min_examples),
        },
    }
    note = "Written by `stillhouse demo`. A task of real life takes more examples and audits less."
    path = folder / f"{plan.task}.toml"
    replace_text(path, f"# {note}\n# {header}\n\n{to_toml(tables)}")
    return load_task(path)


def to_toml(tables: Mapping[str, Mapping[str, Any] | list[Any]]) -> str:
    """Tables, and lists of tables, of plain values as TOML."""
    return "\n".join(line for name, table in tables.items() for line in _table(name, table)) + "\n"


def replace_text(path: Path, text: str) -> None:
    """Write `path` at once: a reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _table(name: str, table: Mapping[str, Any] | list[Any]) -> Iterable[str]:
    if isinstance(table, list):
        for entry in table:
            yield f"[[{name}]]"
            yield from _entries(name, entry)
        return
    yield f"[{name}]"
    yield from _entries(name, table)


def _entries(name: str, table: Mapping[str, Any]) -> Iterable[str]:
    later = {}
    for key, value in table.items():
        if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
            later[f"{name}.{key}"] = value  # tables follow the plain values, or TOML would read those into them
        else:
            yield f"{key} = {_value(value)}"
    yield ""
    for inner, value in later.items():
        yield from _table(inner, value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML string but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _unseen(messages: Iterable[Message], asked: set[str]) -> Iterator[Message]:
    for message in messages:
        if message.text.casefold() not in asked:
            asked.add(message.text.casefold())
            yield message
