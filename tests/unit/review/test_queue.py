"""A verdict becomes two events whose ids repeat when the command is repeated, and only then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stillhouse.review import Said, verdict_events
from tests.unit.review.test_files import T0, case


def said(history, reviewer: str = "ann", **fields):
    events = verdict_events(case(), Said("case-1", **fields), reviewer, history)
    if events is None:
        return None
    reviewed, resolved = events
    assert resolved.review_id == reviewed.id
    assert resolved.model_dump(include={"verdict", "label", "minutes", "reviewer"}) == reviewed.model_dump(
        include={"verdict", "label", "minutes", "reviewer"}
    )
    return reviewed


def row(event):
    return {**event.model_dump(), "review_id": event.id}


def test_a_label_approves_or_corrects_by_what_the_teacher_said() -> None:
    assert (said([], label="a").verdict, said([], label="b").verdict) == ("approve", "correct")
    approved, flagged = said([], verdict="approve"), said([], verdict="flag", label="b")
    assert (approved.label, approved.previous_label) == ("a", "a")
    assert (flagged.verdict, flagged.label) == ("flag", None)
    with pytest.raises(ValueError, match="needs the label"):
        said([], verdict="correct")


def test_said_again_after_a_crash_it_is_the_same_event_and_after_that_it_is_known() -> None:
    first, again = said([], label="b"), said([], label="b")
    assert first.id == again.id
    assert said([row(first)], label="b") is None
    assert said([row(first)], reviewer="bob", label="b") is not None


def test_a_mind_that_changes_back_is_a_new_verdict() -> None:
    first = said([], label="a")
    second = said([row(first)], label="b")
    third = said([row(first), row(second)], label="a")
    assert len({first.id, second.id, third.id}) == 3
    assert third.time > second.time


def test_a_file_with_times_may_come_again_whatever_was_said_since() -> None:
    first = said([], label="b", time=T0)
    assert first.time == T0
    later = said([row(first)], label="a")
    assert said([row(first), row(later)], label="b", time=T0) is None


def test_a_clock_that_is_ahead_does_not_win_for_ever() -> None:
    assert said([], label="b", time=datetime.now(UTC) + timedelta(days=400)).time <= datetime.now(UTC)


def test_notes_are_redacted_and_cut() -> None:
    assert said([], label="b", note="ask ann@example.org " + "x" * 2000).note.startswith("ask <email> xxx")
