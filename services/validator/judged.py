"""The student that a gate judges, through the runtime that serves it: ONNX Runtime here, or vLLM beside."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from services.validator.measure import peak_memory
from stillhouse.models.causal_lm import ARCHITECTURE
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.settings import Settings

Row = Mapping[str, Any]  # of the store, with `input` and `input_type`


class Judged(Protocol):
    """A student that can be asked."""

    tolerance: float
    """By how much its confidence may differ when it is asked the same again."""
    may_differ: float
    """The share of cases that may come out otherwise when they are asked again."""

    beside_s: float
    """CPU seconds that other processes spent for it so far."""

    def answer(self, rows: Sequence[Row]) -> tuple[list[tuple[str, float]], float]:
        """Output and confidence for each row, and the CPU seconds of all. Raises `ModelError`."""
        ...

    def memory_bytes(self, texts: Sequence[str]) -> int:
        """Peak resident bytes of what loads the artefact and answers `texts`. Raises `ModelError`."""
        ...


class Classifier:
    """A student that classifies."""

    tolerance = 1e-3
    may_differ = 0.0
    beside_s = 0.0

    def __init__(self, folder: Path) -> None:
        """Loads the artefact. Raises `ModelError`."""
        self._folder = folder
        self._model = OnnxStudent(folder)

    def answer(self, rows: Sequence[Row]) -> tuple[list[tuple[str, float]], float]:
        """One after the other, as it serves."""
        started = time.process_time()
        said = [self._model.predict_text(row["input"])[:2] for row in rows]
        return said, time.process_time() - started

    def memory_bytes(self, texts: Sequence[str]) -> int:
        """Of a process of its own."""
        return peak_memory(self._folder, texts)


class Writer:
    """A student that writes: its replica is started, or shared with whoever serves it."""

    # Whoever else is answered at the same time moves the last digits of a sum, and the learned confidence spreads them.
    tolerance = 0.05
    may_differ = 0.02

    def __init__(self, folder: Path, home: Path, url: str | None = None) -> None:
        """Starts nothing yet."""
        self._folder, self._home, self._url = folder, home, url
        self.beside_s = 0.0
        self._peak = 0

    def answer(self, rows: Sequence[Row]) -> tuple[list[tuple[str, float]], float]:
        """Many at once, as it serves; what it could not answer has confidence 0."""
        from stillhouse.models.vllm.asking import ask_all

        if not rows:
            return [], 0.0
        requests = [ChatRequest.of(row.get("input_type") or "text", row["input"]) for row in rows]
        asked = ask_all(self._folder, self._home, requests, url=self._url)
        self.beside_s += asked.spent_cpu_s
        self._peak = max(self._peak, asked.memory_bytes)
        return [(one.output, one.confidence) for one in asked.answers], asked.cpu_seconds

    def memory_bytes(self, texts: Sequence[str]) -> int:
        """Of its replica's processes together, while they answered; asks `texts` where it was asked nothing yet."""
        if not self._peak:
            self.answer([{"input": text} for text in texts])
        if not self._peak:
            raise ModelError(f"{self._folder}: its memory cannot be measured; its replica is on another machine.")
        return self._peak


def judged(architecture: str, folder: Path, home: Path) -> Judged:
    """The student in the verified artefact `folder`. Raises `ModelError`."""
    return Writer(folder, home, Settings().serving_url) if architecture == ARCHITECTURE else Classifier(folder)
