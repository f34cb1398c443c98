"""Several processes of torchrun that train one student together, and what they are told.

Who asks for a student in several processes starts them with the same arguments and the same checkpoint folder, waits,
and goes on from what they left there: a finished run, which is only loaded. Each takes its share of the batches of
every step (`fitting.fit`); collectives are gloo's, because classifiers and rerankers train on CPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from stillhouse.files import read_json, write_json
from stillhouse.models.port import ModelError

JOB_FILE: Final = "job.json"
ERROR_FILE: Final = "error.json"


def asked_together(processes: int) -> bool:
    """Whether the processes that train together are yet to be started; False in one of them, or for one alone."""
    return processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ


def train_together(
    job: Mapping[str, Any],
    checkpoint_dir: Path,
    processes: int,
    threads: int,
    on_progress: Callable[[dict[str, Any]], None],
) -> None:
    """Have `processes` processes of `threads` threads do `job`; each line that the first says goes to `on_progress`.

    Texts lie in a folder below `checkpoint_dir` that is gone afterwards. Raises `ModelError` for what they refuse,
    `RuntimeError` where one of them ends otherwise, and `OSError`.
    """
    work = checkpoint_dir / "together"
    work.mkdir(exist_ok=True)
    try:
        write_json(work / JOB_FILE, {**job, "checkpoints": str(checkpoint_dir), "threads": threads})
        (work / ERROR_FILE).unlink(missing_ok=True)
        launch("stillhouse.distill", work, processes, threads, on_progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def launch(module: str, work: Path, processes: int, threads: int, on_line: Callable[[dict[str, Any]], None]) -> None:
    """`python -m module work` in several processes of torchrun; lines that are JSON objects go to `on_line`.

    Raises `ModelError` with the message of `error.json` in `work`, where there is one, and else `RuntimeError` with the
    last line that was said, where a process fails. When this is interrupted, they are ended first.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", module, str(work)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = "it said nothing"
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"'):
                on_line(json.loads(line))
            elif line.strip():
                last = line.strip()
        code = process.wait()
    except BaseException:
        process.terminate()  # torchrun ends its processes, then itself
        process.wait()
        raise
    if (failed := read_json(work / ERROR_FILE)) is not None:
        raise ModelError(failed["message"])
    if code != 0:
        raise RuntimeError(f"training in {processes} processes ended with status {code}: {last[:300]}")
