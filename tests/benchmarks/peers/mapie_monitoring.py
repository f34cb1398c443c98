"""MAPIE's RiskMonitoring on streams of losses; the first audit at which its bound is above the threshold.

Job: `streams` (as for river), `p0` (by name of stream). Two ways: `mapie` is told the promise as its threshold, as
Stillhouse is; `mapie_defaults` learns it from the first `reference` audits of the stream, with its default tolerance.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import numpy as np
from mapie.exchangeability_testing import RiskMonitoring


def first_alarm(monitor: RiskMonitoring, losses: np.ndarray) -> int | None:
    """The audit (from 1) at which the monitor's lower bound first exceeds its threshold."""
    # Accuracy is its risk; what was right is a prediction of 1 for a truth of 1.
    monitor.update(np.ones(len(losses), dtype=int), 1 - losses.astype(int))
    above = np.flatnonzero(monitor.online_risk_lower_bound_sequence_history > monitor.threshold)
    return int(above[0]) + 1 if above.size else None


def main() -> None:
    """Read the job, run it, write the result."""
    job = json.load(sys.stdin)
    with np.load(job["streams"]) as file:
        streams = {name: file[name][: job["most"]] for name in file.files}
    alarms: dict[str, dict[str, list[int | None]]] = {"mapie": {}, "mapie_defaults": {}}
    for of, rows in streams.items():
        told, learnt = alarms["mapie"].setdefault(of, []), alarms["mapie_defaults"].setdefault(of, [])
        reference = job["reference"][of]
        for row in rows:
            told.append(first_alarm(RiskMonitoring("accuracy", threshold=job["p0"][of], warn=False), row))
            known = row[:reference].astype(int)
            monitor = RiskMonitoring("accuracy", reference_data=(np.ones(reference, dtype=int), 1 - known), warn=False)
            after = first_alarm(monitor, row[reference:])
            learnt.append(None if after is None else after + reference)
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump({"version": {"mapie": version("mapie")}, "alarms": alarms}, file)


if __name__ == "__main__":
    main()
