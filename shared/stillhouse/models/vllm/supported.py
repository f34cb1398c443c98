"""What a machine can serve. What it cannot, or only at a crawl, is refused with the reason instead of tried."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillhouse.models.vllm.spec import Quantization

TURING: Final = (7, 5)
AMPERE: Final = (8, 0)
ADA: Final = (8, 9)
BLACKWELL: Final = (10, 0)
NVIDIA_SMI_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A machine, as far as kernels depend on it. `gpu` is the compute capability; None: it serves on its CPU."""

    avx2: bool
    gpu: tuple[int, int] | None = None


def detect(*, with_gpu: bool = True) -> Target:
    """This machine. Of several GPUs the least capable counts; without `with_gpu` none is looked for."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    return Target(has_avx2(cpuinfo), _gpu() if with_gpu else None)


def has_avx2(cpuinfo: str) -> bool:
    """Whether `/proc/cpuinfo` lists AVX2."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "avx2" in line.partition(":")[2].split()


def capability_of(said: str) -> tuple[int, int] | None:
    """The least of what `nvidia-smi --query-gpu=compute_cap` printed; None where it printed none."""
    found = []
    for line in said.split():
        major, _, minor = line.partition(".")
        if major.isdigit() and minor.isdigit():
            found.append((int(major), int(minor)))
    return min(found, default=None)


def refusal(quantization: Quantization, target: Target) -> str | None:
    """Why `target` does not serve checkpoints of that kind, in one sentence; None where it does."""
    return _on_gpu(quantization, target.gpu) if target.gpu is not None else _on_cpu(quantization, target)


def choices(target: Target) -> tuple[Quantization, ...]:
    """What `target` serves, the best first. CPUs decode fastest what is not quantised; GPUs the smallest."""
    best: tuple[Quantization, ...]
    if target.gpu is None:
        best = ("none", "w8a8")
    elif target.gpu >= BLACKWELL:
        best = ("nvfp4", "fp8", "w4a16", "none", "w8a8")
    else:
        best = ("fp8", "w8a8", "w4a16", "none", "nvfp4")
    return tuple(one for one in best if refusal(one, target) is None)


def _on_cpu(quantization: Quantization, target: Target) -> str | None:
    if not target.avx2:
        return "vLLM on a CPU needs x86 with AVX2, which this machine has not; serve on another one, by its URL."
    match quantization:
        case "none" | "w8a8":
            return None
        case "w4a16":
            # vLLM 0.32: "cpu_gemm_wna16" not implemented for 'Float'; with bfloat16 it did not come up either.
            return "W4A16 on a CPU has no kernel that computes in float32, as students do there; use none or w8a8."
        case "fp8":
            return "FP8 crawls on a CPU or does not load; use none or w8a8, or a Hopper or Ada GPU."
        case "nvfp4":
            return "NVFP4 needs a Blackwell GPU; use none or w8a8 on a CPU."


def _on_gpu(quantization: Quantization, gpu: tuple[int, int]) -> str | None:
    here = f"this one has compute capability {gpu[0]}.{gpu[1]}"
    match quantization:
        case "none":
            return None if gpu >= TURING else f"vLLM needs a GPU of compute capability 7.5 or newer; {here}."
        case "w8a8":
            if gpu >= BLACKWELL:
                return f"vLLM has no INT8 kernels for Blackwell and newer GPUs, and {here}; use fp8 or nvfp4."
            return None if gpu >= AMPERE else f"W8A8 needs an Ampere GPU or newer (8.0); {here}; use none."
        case "w4a16":
            return None if gpu >= AMPERE else f"W4A16 needs an Ampere GPU or newer (8.0); {here}; use none."
        case "fp8":
            return None if gpu >= ADA else f"FP8 needs a Hopper or Ada GPU or newer (8.9); {here}; use w8a8 or w4a16."
        case "nvfp4":
            return None if gpu >= BLACKWELL else f"NVFP4 needs a Blackwell GPU (10.0); {here}; use fp8, w8a8 or w4a16."


def _gpu() -> tuple[int, int] | None:
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return capability_of(said.stdout)
