"""Runbooks and procedures can be followed: their commands are the command line's, their metrics and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from stillhouse.cli import app
from stillhouse.telemetry import names

FOLDER = Path(__file__).parents[2] / "deploy" / "runbooks"
RUNBOOKS = sorted(FOLDER.glob("*.md"))
PROCEDURES = sorted((FOLDER / "procedures").glob("*.md"))
METRICS = {value for name, value in vars(names).items() if name.isupper() and str(value).startswith("stillhouse_")}


def commands(text: str) -> list[str]:
    """Every `stillhouse ...`: a line of a code block, or a span of code, whichever way it is wrapped."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line.strip() for block in blocks for line in block.splitlines()] + [" ".join(s.split()) for s in spans]
    return [line for line in lines if line.startswith("stillhouse ")]


def check(line: str) -> None:
    """Parse `line` as the command line would: unknown commands, options, values and missing ones raise."""
    command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):  # a group; Typer has its own classes for them
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break  # one that is a command itself
        unnamed = words[0] not in command.commands if words else not command.no_args_is_help
        if unnamed and hasattr(command, "default"):
            words = [command.default, *words]
        found = command.commands.get(words[0] if words else "")
        assert found is not None, f"{line!r}: there is no such command"
        command, words = found, words[1:]
    try:
        command.make_context(command.name, words)
    except Exception as error:
        raise AssertionError(f"{line!r}: {getattr(error, 'message', error)}") from error


FOUND = [(path, line) for path in (*RUNBOOKS, *PROCEDURES) for line in commands(path.read_text())]


@pytest.mark.parametrize(("path", "line"), FOUND, ids=lambda value: value.stem if isinstance(value, Path) else value)
def test_a_command_is_accepted(path, line) -> None:
    check(line)


def test_commands_are_found_and_bad_ones_refused() -> None:
    text = "`stillhouse\nstatus` and\n\n   ```\n   stillhouse routes  # why\n   ```\n\nno `stillhouse_metric`"
    assert commands(text) == ["stillhouse routes  # why", "stillhouse status"]
    for bad in (
        "stillhouse rotues",
        "stillhouse route",
        "stillhouse routes --tsk x",
        "stillhouse dlq replay --all --reason x",
    ):
        with pytest.raises(AssertionError, match="stillhouse"):
            check(bad)
    assert len(FOUND) > 60


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_has_its_five_parts(path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.stem}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Meaning",
        "Impact",
        "Diagnosis",
        "Mitigation",
        "Verification",
    ]
    assert commands(text)


@pytest.mark.parametrize("path", [*RUNBOOKS, *PROCEDURES], ids=lambda path: path.stem)
def test_metrics_and_links_exist(path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bstillhouse_[a-z_]+", re.sub(r"docker volume rm \w+", "", text))) <= METRICS
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).is_file(), target


def test_the_procedures_are_there() -> None:
    assert {path.stem for path in PROCEDURES} == {
        "roll-back-a-student",
        "replay-dead-letters",
        "rebuild-redis",
        "retire-a-teacher",
    }
