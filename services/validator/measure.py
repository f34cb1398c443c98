"""`python -m services.validator.measure <artefact folder>`: how much memory a student takes, in a process of its own.

It loads the artefact through the runtime that serves, answers the texts on stdin (a JSON list), and prints its peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stillhouse.models.port import ModelError
from stillhouse.models.rerank_student import OnnxReranker, is_reranker
from stillhouse.models.student import OnnxStudent


def peak_memory(folder: Path, texts: Sequence[str]) -> int:
    """Peak resident bytes of a process that answers `texts`. Raises `ModelError`."""
    command = [sys.executable, "-m", "services.validator.measure", str(folder)]
    done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise ModelError(f"{folder}: its memory could not be measured ({done.stderr.strip()[-300:]}).")
    return int(done.stdout)


def main(folder: Path) -> None:
    """Answer what is on stdin, print the peak in bytes."""
    student = OnnxReranker(folder) if is_reranker(folder) else OnnxStudent(folder)
    for text in json.load(sys.stdin):
        student.predict_text(text)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak * (1024 if sys.platform == "linux" else 1))  # KiB there, bytes elsewhere


if __name__ == "__main__":
    main(Path(sys.argv[1]))
