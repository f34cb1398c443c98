"""All five label-free tests together, over whole lives of 10,000 requests without a change."""

from __future__ import annotations

import numpy as np
import pytest

from services.drift_monitor.inputs import Buffers, InputWatch, compared, counted, observe
from services.drift_monitor.novelty import Known
from stillhouse.quality.input_drift import HORIZON
from tests.unit.drift_monitor.answers import traffic
from tests.unit.trainer.tasks import make_task

LIVES = 40


@pytest.mark.slow
def test_false_suspicions_in_10_000_requests_are_at_most_what_the_task_allows() -> None:
    allowed = 0.05
    task = make_task(labels=("a", "b"), drift={"false_suspicions": allowed})
    suspected = 0
    for life in range(LIVES):
        known = Known.learn([event.input for event in traffic(1200, seed=1000 + life)], allowed / 10)
        state, buffers = InputWatch(), Buffers()
        seen = [observe(event, task, known) for event in traffic(HORIZON, seed=life)]
        state = counted(task, state, seen, known)
        state, _ = compared(task, state, buffers, seen, str(life))
        suspected += bool(state.suspicions)
    assert suspected / LIVES <= allowed + 2.5 * np.sqrt(allowed * (1 - allowed) / LIVES)
