"""Memory that a graph takes to load and to answer: the peak of a process of its own, which has nothing else in it.

`python footprint.py model.onnx TOKENS` prints it; nothing of Stillhouse is imported there, so torch is not counted.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
SESSION = 6_000_000  # bytes of a session of ONNX Runtime whose graph has hardly any weights


def expected_memory(weights: int, activations: int) -> int:
    """Peak bytes to expect: while a graph loads, its file and the weights that the runtime makes of it are both there.

    `make bench NAME=design` compares it with `memory_of`.

    >>> expected_memory(1_000_000, 500_000)
    8500000
    """
    return 2 * weights + activations + SESSION


def memory_of(path: Path, length: int) -> int | None:
    """Peak bytes that loading `path` and answering texts of `length` tokens or features add to a process.

    ONNX Runtime itself is not counted, as in predictions. None where it cannot be measured: systems other than Linux,
    or a process that failed.
    """
    if not STATUS.exists():
        return None
    command = [sys.executable, "-I", str(Path(__file__)), str(path), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def main() -> None:
    """Load, answer a few times, and print the bytes that were added at the peak."""
    import numpy as np
    import onnxruntime

    path, length = sys.argv[1], int(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with contextlib.suppress(OSError):  # forget the peak of the imports
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _bytes("VmRSS")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ids = np.ones((1, length), dtype=np.int64)
    for _ in range(3):
        session.run(None, {one.name: ids for one in session.get_inputs()})
    print(max(0, _bytes("VmHWM") - before))


def _bytes(name: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
