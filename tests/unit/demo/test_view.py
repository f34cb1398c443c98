"""What is shown, in a terminal and without one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stillhouse.demo.view import View
from stillhouse.demo.watcher import State
from tests.unit.demo.story import TASK, make_plan, whole_story


def shown(**options) -> tuple[View, Console]:
    events, tally = whole_story()
    state = State("default/t")
    console = Console(file=io.StringIO(), width=110, **options)
    view = View(console, make_plan(), TASK, state, tally)
    for event in events:
        state.fold(event)
    view.tick()
    return view, console


def test_the_picture_has_the_numbers() -> None:
    view, console = shown(force_terminal=True, no_color=True)
    console.print(view.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("a generated sample", "by the teacher", "15", "by students", "25", "traffic has changed", "drift: s1"):
        assert part in text
    assert "█" in text or "▅" in text or "▆" in text


def test_no_color_is_honoured(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    view, console = shown(force_terminal=True)
    console.print(view.render())
    assert "\x1b[3" not in console.file.getvalue().replace("\x1b[3m", "")  # type: ignore[attr-defined]


def test_without_a_terminal_events_are_plain_lines_and_said_once() -> None:
    view, console = shown()
    view.print_news()
    view.print_news()
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "00:00:08  training hashed_ngrams on 300 examples"
    assert len(lines) == len(set(lines)) == 10
    assert not any("\x1b" in line for line in lines)
    assert view.status_line().startswith("live: 40 sent at ")
    assert "0 lost; student 62.5 %; $1.6" in view.status_line().replace("$1.625", "$1.6")


@pytest.mark.parametrize("size", [1, 5000])
def test_many_events_do_not_break_the_picture(size) -> None:
    view, console = shown(force_terminal=True)
    for _ in range(size):
        view.tick()
    console.print(view.render())
