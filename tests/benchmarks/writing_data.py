"""Recorded answers for the benchmarks of students that write, split by answer as the demo splits them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from stillhouse.demo.data import DataError
from stillhouse.demo.writing.sample import Pair
from stillhouse.demo.writing.source import Sizing, plan_writing
from stillhouse.distill.causal_lm.base import SMOLLM2, base_folder
from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.environments.environment import root
from stillhouse.models.chat.request import ChatRequest
from tests.benchmarks.data import shared

DATA = "e2e_slots"
BASE = SMOLLM2


@dataclass(frozen=True, slots=True)
class Answers:
    """What is learnt and what is asked; they share no answer."""

    name: str
    learnt: list[WrittenText]
    asked: list[WrittenText]


def answers(data: Path | None, learnt: int, asked: int) -> Answers:
    """Recorded answers of `data`, or of `e2e_slots`. Ends the program with a sentence where there are too few."""
    path = data or shared(DATA)
    try:
        plan = plan_writing(path, 0, Sizing(taught=learnt))
    except DataError as error:
        sys.exit(str(error))
    return Answers(path.name, [_text(pair) for pair in plan.taught], [_text(pair) for pair in plan.rest[:asked]])


def base() -> Path:
    """The folder of SmolLM2-135M-Instruct, fetched at its first use."""
    return base_folder(BASE, root().parent / "bases")


def _text(pair: Pair) -> WrittenText:
    return WrittenText(ChatRequest.of("text", pair.input), pair.output)
