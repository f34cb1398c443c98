"""Does the teacher agree with itself? Nobody can agree with it more often, so this is measured first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stillhouse.quality.eprocess import AgreementTest


def teacher_agreement(
    answers: Iterable[tuple[str, str]], same: Callable[[str, str], bool], floor: float, alpha: float
) -> AgreementTest:
    """The test of the teacher's agreement with itself over `answers`, pairs of its answers to one question each.

    Where it *failed*, agreement at `floor` is not there to be had, and a gate that asks for it refuses; it says so
    wrongly with probability `alpha` at most.
    """
    test = AgreementTest(floor, alpha)
    for first, second in answers:
        test.update(same(first, second))
    return test


def repeats(asked: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first two answers to each question of `asked` (question, answer) that was asked more than once, in order.

    One pair for each question, so that the pairs are independent and an often repeated question counts once.
    """
    first: dict[str, str] = {}
    pairs: dict[str, tuple[str, str]] = {}
    for question, answer in asked:
        if question in first and question not in pairs:
            pairs[question] = (first[question], answer)
        first.setdefault(question, answer)
    return list(pairs.values())
