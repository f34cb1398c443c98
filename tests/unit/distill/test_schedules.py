from __future__ import annotations

import pytest

from stillhouse.distill.schedules import Schedule


def test_constant_linear_and_cosine() -> None:
    assert [Schedule(2.0, 2.0, "constant").at(t) for t in (0.0, 0.3, 1.0)] == [2.0, 2.0, 2.0]
    assert [Schedule(4.0, 1.0).at(t) for t in (0.0, 0.5, 1.0)] == [4.0, 2.5, 1.0]
    assert [Schedule(0.0, 1.0, "cosine").at(t) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 0.1464466, 0.5, 1])


def test_before_and_after_training_the_ends_hold() -> None:
    assert Schedule(4.0, 1.0).at(-0.1) == 4.0
    assert Schedule(4.0, 1.0, "cosine").at(1.1) == 1.0


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="no schedule is called 'step'"):
        Schedule(1.0, 2.0, "step")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot go from 1 to 2"):
        Schedule(1.0, 2.0, "constant")
