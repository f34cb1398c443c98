"""A checkpoint in fewer bits, for vLLM: what was merged and gated is what is quantised, and gated again after."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from stillhouse.environments.environment import python_of
from stillhouse.environments.running import run_job
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.spec import weights_bytes

Scheme = Literal["w8a8", "w4a16", "fp8", "nvfp4"]
Message = dict[str, str]

SCRIPT: Final = Path(__file__).with_name("quantise_job.py")
FAILED: Final = "failed: "  # how the script begins its last line
NEEDS_CALIBRATION: Final = frozenset({"w4a16", "nvfp4"})


def quantise(
    folder: Path,
    out: Path,
    scheme: Scheme,
    calibration: Sequence[list[Message]],
    on_line: Callable[[str], None] | None = None,
    *,
    max_length: int = 1024,
    seed: int = 0,
    gptq: bool = False,
    rounded: bool = False,
) -> None:
    """Write the checkpoint `folder` in `scheme` to the new folder `out`: safetensors, configuration and tokenizer.

    `calibration` are conversations as the student will see them, answers included; a few hundred are enough. W4A16 and
    NVFP4 need them; FP8, and W8A8 without `gptq`, round weights to the nearest and need none. GPTQ takes some minutes
    for every 100 million parameters on a CPU, rounding seconds. `rounded`: W4A16 rounds to the nearest too, and needs
    no texts, as is right for weights that learned to be rounded (`rounding`). The environment is made where it is
    absent. Raises `ModelError`; then there is no `out`.
    """
    if rounded and (gptq or scheme == "nvfp4"):
        raise ModelError(f"{scheme}: rounding to the nearest is for w8a8, w4a16 and fp8, and not with gptq.")
    calibrated = not rounded and (scheme in NEEDS_CALIBRATION or (gptq and scheme == "w8a8"))
    weights_bytes(folder)  # refuses what is no checkpoint of safetensors
    if out.exists():
        raise ModelError(f"{out}: is there already; quantised checkpoints are written once, to a new folder.")
    if calibrated and not calibration:
        raise ModelError(f"{scheme} needs calibration texts; give some of the student's conversations.")
    say = on_line or (lambda line: None)
    python = python_of("quantising", on_line)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        staging, job = Path(work) / "out", Path(work) / "job.json"
        asked = {
            "folder": str(folder.absolute()),
            "out": str(staging.absolute()),
            "scheme": scheme,
            "gptq": gptq or (scheme == "w4a16" and not rounded),
            "calibration": list(calibration) if calibrated else [],
            "max_length": max_length,
            "seed": seed,
        }
        job.write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
        _run([str(python), str(SCRIPT), job.name], Path(work), scheme, say)
        weights_bytes(staging)
        shutil.move(staging, out)


def _run(command: list[str], where: Path, scheme: str, say: Callable[[str], None]) -> None:
    environ = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    code, last = run_job(command, where, environ, say)
    if code == -9:
        raise ModelError(f"{scheme}: quantising was killed, most likely for want of memory; free some and do it again.")
    if code != 0:
        raise ModelError(f"{scheme}: quantising failed: {last.removeprefix(FAILED)[:300]}")
