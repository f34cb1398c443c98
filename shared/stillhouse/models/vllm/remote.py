"""A vLLM server somewhere else, by its URL: production's containers, which nobody here starts or ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

import structlog

from stillhouse.models.port import ModelError
from stillhouse.models.vllm.recorded import Recorded, compare, fetch, read_recorded
from stillhouse.processes import Pauses

HEALTH_S: Final = 5.0
ANSWER_S: Final = 120.0
LOOK_S: Final = 15.0
SILENT: Final = 2  # looks in a row without an answer: then it is asked nothing until it was compared again

log = structlog.get_logger()


class RemoteServer:
    """Watches one server: nobody asks it before it answered the recorded questions, nor while it is away.

    It has the methods of a `ReplicaLease`, which holds a server of this machine.
    """

    def __init__(self, base_url: str, student_id: str, folder: Path, *, look_s: float = LOOK_S) -> None:
        """`base_url` ends with `/v1`; `folder` is the student's artefact. Raises `ModelError` where it is unusable."""
        self._url = base_url.rstrip("/")
        self._id = student_id
        self._recorded: list[Recorded] = read_recorded(folder)
        self._look_s = look_s
        self._proven = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._error = "it was not asked yet"

    def base_url(self) -> str | None:
        """Where it answers; None while it does not."""
        return self._url if self._proven.is_set() else None

    async def start(self) -> None:
        """Begin to watch it; comes back before it answers."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def ready(self, timeout_s: float) -> str:
        """Wait until it answers as the student that was measured. Raises `ModelError`."""
        try:
            await asyncio.wait_for(self._proven.wait(), timeout_s)
        except TimeoutError:
            raise ModelError(f"{self._url} does not serve {self._id} after {timeout_s:.0f} s: {self._error}") from None
        return self._url

    async def release(self) -> None:
        """Watch it no more."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        self._proven.clear()

    def cpu_seconds(self) -> float:
        """0: nobody here knows."""
        return 0.0

    def memory_bytes(self) -> int:
        """0: nobody here knows."""
        return 0

    async def _watch(self) -> None:
        pauses, silent = Pauses(first=1.0), 0
        while True:
            try:
                await asyncio.to_thread(self._look, compared=self._proven.is_set())
            except (ModelError, OSError) as error:
                silent += 1
                self._error = str(error) or type(error).__name__
                if not self._proven.is_set() or silent >= SILENT:
                    self._proven.clear()
                    log.warning("remote_student_not_ready", student_id=self._id, url=self._url, error=self._error)
                    await asyncio.sleep(pauses.next())
                    continue
            else:
                silent = 0
                if not self._proven.is_set():
                    pauses.begun()
                    log.info("remote_student_ready", student_id=self._id, url=self._url)
                    self._proven.set()
            await asyncio.sleep(self._look_s)

    def _look(self, *, compared: bool) -> None:
        begun = time.monotonic()
        status, _ = fetch(f"{self._url}/models", None, HEALTH_S)
        if status != 200:
            raise ModelError(f"GET /models was answered with status {status}")
        if not compared:
            compare(self._url, self._id, self._recorded, ANSWER_S - (time.monotonic() - begun))
