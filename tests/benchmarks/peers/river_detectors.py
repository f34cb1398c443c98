"""river's detectors with their defaults on streams of losses; the first alarm of each stream.

Job: `streams` (path of an .npz with one bool array [streams, audits] a name), `detectors`, `most` (streams of each that
the slow detectors see). Result: `{"version", "alarms": {detector: {name: [audit or null, ...]}}}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import river
from river import drift

MAKE: dict[str, Callable[[], Any]] = {
    "adwin": drift.ADWIN,
    "page_hinkley": drift.PageHinkley,
    "kswin": lambda: drift.KSWIN(seed=1),
    "hddm_a": drift.binary.HDDM_A,
    "hddm_w": drift.binary.HDDM_W,
    "ddm": drift.binary.DDM,
}
SLOW = ("kswin",)


def first_alarm(detector: Any, losses: np.ndarray) -> int | None:
    """The audit (from 1) at which `detector` first says that something changed."""
    for i, loss in enumerate(losses.tolist(), start=1):
        detector.update(loss)
        if detector.drift_detected:
            return i
    return None


def main() -> None:
    """Read the job, run it, write the result."""
    job = json.load(sys.stdin)
    with np.load(job["streams"]) as file:
        streams = {name: file[name] for name in file.files}
    alarms: dict[str, dict[str, list[int | None]]] = {}
    for name, make in MAKE.items():
        most = job["most"] if name in SLOW else None
        alarms[name] = {of: [first_alarm(make(), row) for row in rows[:most]] for of, rows in streams.items()}
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump({"version": {"river": river.__version__}, "alarms": alarms}, file)


if __name__ == "__main__":
    main()
