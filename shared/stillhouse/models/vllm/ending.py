"""Ending the replicas of a home at once, where nobody will ask them again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

from stillhouse.files import is_locked, read_json
from stillhouse.models.vllm.replica_main import LOCK_FILE, STATE_FILE

END_S: Final = 15.0


def end_replicas(home: Path) -> int:
    """Have every supervisor of a replica in `home` end, and wait for them; how many there were."""
    held = [folder for folder in (home / "replicas").glob("*") if is_locked(folder / LOCK_FILE)]
    for folder in held:
        pid = (read_json(folder / STATE_FILE) or {}).get("pid")
        if isinstance(pid, int) and pid > 1:  # 0: it is just starting, and ends for want of leases
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + END_S
    while any(is_locked(folder / LOCK_FILE) for folder in held) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(held)
