"""The alpha account: shares add up to alpha, and looking again costs nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.validator.account import place, share

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_each_new_student_is_next_and_keeps_its_place() -> None:
    judged = [("s1", T0), ("s2", T0 + timedelta(1)), ("s1", T0 + timedelta(2)), ("s2", T0 + timedelta(3))]
    assert place([], "s1") == 1
    assert [place(judged, name) for name in ("s1", "s2", "s3")] == [1, 2, 3]
    assert place(reversed(judged), "s2") == 2


def test_a_thousand_retrains_never_spend_more_than_alpha() -> None:
    judged: list[tuple[str, datetime]] = []
    spent = 0.0
    for number in range(300):
        name = f"s{number}"
        k, alpha = share(0.05, judged, name)
        assert k == number + 1
        spent += alpha
        judged.append((name, T0 + timedelta(number)))
    assert spent < 0.05
    assert spent == pytest.approx(0.05 * (1 - 1 / 301))
