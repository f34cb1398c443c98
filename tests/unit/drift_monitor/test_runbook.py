"""The runbook that alarms name exists, and so does every command in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from services.drift_monitor.settings import DriftMonitorSettings
from stillhouse.cli import app
from stillhouse.events import DriftDetected

RUNBOOK = Path(__file__).parents[3] / "deploy" / "runbooks" / f"{DriftDetected.model_fields['runbook'].default}.md"
COMMANDS = sorted(set(re.findall(r"stillhouse ((?:[a-z]+ ?)+?)(?: --| STUDENT|`|  )", RUNBOOK.read_text())))


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_exists(line) -> None:
    command = typer.main.get_command(app)
    for word in line.split():
        assert word in getattr(command, "commands", {}), line
        command = command.commands[word]
    # `gate STUDENT` is `gate show STUDENT`.
    assert not hasattr(command, "commands") or hasattr(command, "default"), f"{line} is a group"


def test_the_text_says_what_is_so() -> None:
    assert len(COMMANDS) >= 8
    assert f"most recent {DriftMonitorSettings().drift_monitor_window} audits" in RUNBOOK.read_text().replace("\n", " ")
