"""What is served, and how: all that decides whether two replicas of a checkpoint are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stillhouse.models.port import ModelError

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Quantization = Literal["none", "w8a8", "w4a16", "fp8", "nvfp4"]
Runner = Literal["generate", "pooling"]

PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PICKLED: Final = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """One replica of one student. `dtype` is that of computing; `quantization` what the checkpoint was written with.

    `runner`: `pooling` serves classifiers and cross-encoders, whose answers are numbers.
    """

    student_id: str
    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    max_model_len: int = 1024  # tokens of a question and its answer together
    max_num_seqs: int = 16  # answers that are written at once
    kv_cache_gib: int = 1
    runner: Runner = "generate"

    def __post_init__(self) -> None:
        if PLAIN_NAME.fullmatch(self.student_id) is None:
            raise ModelError(
                f"the student id {self.student_id[:80]!r} is no plain name; use letters, digits, '.', '_' and '-'."
            )


def weights_bytes(folder: Path) -> int:
    """Bytes of a checkpoint's weights, after checking that they are safetensors and nothing else. Raises `ModelError`.

    What would be unpickled could run code of whoever wrote it, so a folder that holds such a file is not served at all.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json; give the folder of a checkpoint.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.suffix.lower() in PICKLED or path.suffix == ".py":
            raise ModelError(f"{path}: not served, it may hold code; write the checkpoint as safetensors, without it.")
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        raise ModelError(f"{folder}: holds no .safetensors; write the checkpoint with safe serialisation.")
    return sum(path.stat().st_size for path in weights)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What the supervisor of a replica says about it in `replica.json`."""

    state: Literal["starting", "ready", "failed", "ended"]
    pid: int  # the supervisor's
    vllm_pid: int | None = None
    port: int | None = None
    started: float = 0.0  # of this process of vLLM, in seconds since 1970
    ready_s: float | None = None  # how long the last start took
    restarts: int = 0
    phase: str = ""
    error: str = ""
