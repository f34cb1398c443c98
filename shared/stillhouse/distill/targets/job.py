"""`python job.py job.json`: convert a program, or run what was converted, in an exporter's own environment.

That environment has no Stillhouse, so nothing of it is imported here. The last line of a job that failed says why.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> int:
    """Do the job; 1 where it failed, with the reason as the last line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        target: Any = importlib.import_module(f"{job['target']}_target")
        done = convert(target, job) if job["do"] == "convert" else run(target, job)
        Path(job["result"]).write_text(json.dumps(done), encoding="utf-8")
    except Exception as error:  # whatever a library raises is this job's failure
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        print(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return 1
    return 0


def convert(target: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Write `job["out"]`; gives the seconds that it took, and the exporter's version."""
    begun = time.monotonic()
    target.convert(job)
    return {"seconds": time.monotonic() - begun, "version": target.version()}


def run(target: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Answer every input, one at a time, on one thread; logits go to `job["answers"]`, times and memory are given."""
    given = np.load(job["inputs"])
    before = _resident()
    answer = target.load(job["out"])
    said, took = [], []
    for row in range(int(given["count"])):
        inputs = [given[f"{name}_{row}"] for name in job["names"]]
        begun = time.perf_counter()
        logits = answer(inputs)
        took.append((time.perf_counter() - begun) * 1e3)
        said.append(np.asarray(logits, dtype=np.float32))
    np.save(job["answers"], np.stack(said))
    return {
        "p50_ms": float(np.percentile(took, 50)),
        "p95_ms": float(np.percentile(took, 95)),
        "memory_bytes": max(0, _resident() - before),
    }


def _resident() -> int:
    """The memory that this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _end_with(parent: int) -> None:
    """Nobody waits for this job any more once its starter is dead."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
