"""What people say of a student's answers, look after look: the order of the test, and how often it errs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from services.validator.answers import in_the_order_said
from stillhouse.quality.responses import Case, judge_answers
from stillhouse.tasks.responses import ResponseGate, WinRate

ALPHA = 0.1


def cases(n: int) -> list[Case]:
    return [Case(f"e{i}", "q", "s", teacher="t", base="b") for i in range(n)]


def test_what_was_said_first_comes_first_whatever_came_since() -> None:
    people = [("e5", "base"), ("e1", "teacher"), ("e3", "base")]
    assert [one.id for one in in_the_order_said(cases(7), people, "base")] == ["e5", "e3", "e0", "e1", "e2", "e4", "e6"]
    later = [*people, ("e0", "base")]
    assert [one.id for one in in_the_order_said(cases(7), later, "base")][:3] == ["e5", "e3", "e0"]


def test_a_student_at_the_floor_passes_at_most_alpha_of_the_time_however_often_people_are_heard() -> None:
    rng, paths, passed = np.random.default_rng(12), 80, 0
    gate = ResponseGate(alpha=ALPHA, condition=(WinRate(kind="win_rate", floor=0.65),))
    for _ in range(paths):
        order, wins = rng.permutation(120), rng.random(120) < 0.65
        for heard in range(10, 121, 10):
            people = [(f"e{i}", "base") for i in order[:heard]]
            said = {f"e{i}" for i in order[:heard]}
            told = [
                replace(one, winner="student" if wins[i] else "other", student_first=i % 2 == 0)
                if one.id in said
                else one
                for i, one in enumerate(cases(120))
            ]
            [found] = judge_answers(in_the_order_said(told, people, "base"), gate, lambda a, b: a == b)
            if found.verdict == "passed":
                passed += 1
                break
    assert passed <= ALPHA * paths + 3 * math.sqrt(ALPHA * (1 - ALPHA) * paths)
