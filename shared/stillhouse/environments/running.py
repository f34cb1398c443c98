"""Runs one job in an environment beside ours, and hears what it says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stillhouse.environments.environment import clean_environ


def run_job(
    command: Sequence[str], where: Path, environ: Mapping[str, str], on_line: Callable[[str], None]
) -> tuple[int, str]:
    """The exit status of `command`, run in the folder `where`, and the last line that it said.

    `environ` is set beside what every environment gets; `on_line` gets each line. A job does not outlive its caller.
    """
    process = subprocess.Popen(
        command,
        cwd=where,
        env=clean_environ() | dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    last = "it said nothing"
    try:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line := line.strip():
                    on_line(line)
                    last = line
        return process.wait(), last
    except BaseException:
        process.kill()
        process.wait()
        raise
