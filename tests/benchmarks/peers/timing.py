"""How every classifier is measured: by CPU time of its own process, one thread, the same texts.

Imported by the peers' programs in their environments, and by Stillhouse's side: it needs nothing but the standard
library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any


def measure(
    predict: Callable[[Sequence[str]], Sequence[str]],
    texts: Sequence[str],
    batch: int,
    repeats: int,
    singles: int = 300,
) -> dict[str, Any]:
    """Answers to `texts` in batches, texts per CPU-second (median and range over repeats), p50 of single texts."""
    predict(texts[: max(batch, 8)])  # warm
    rates: list[float] = []
    answers: list[str] = []
    for _ in range(repeats):
        answers = []
        started = time.process_time()
        for start in range(0, len(texts), batch):
            answers += list(predict(texts[start : start + batch]))
        rates.append(len(texts) / max(time.process_time() - started, 1e-9))
    waits, cpus = [], []
    for text in texts[:singles]:
        started, cpu = time.perf_counter(), time.process_time()
        predict([text])
        waits.append((time.perf_counter() - started) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
    return {
        "answers": answers,
        "texts_per_cpu_s": median(rates),
        "texts_per_cpu_s_range": [min(rates), max(rates)],
        "p50_ms_batch1": median(waits),
        "cpu_ms_batch1": median(cpus),
        "batch": batch,
    }
