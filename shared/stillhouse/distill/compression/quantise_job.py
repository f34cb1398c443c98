"""Quantise one checkpoint: `python quantise_job.py job.json`, run by the quantising environment's python.

That environment has no Stillhouse, so nothing of it is imported here. Nothing is said that a program reads but the last
line where it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

GROUPS = (128, 64, 32)  # inputs that may share a scale in W4A16, the fewest scales first
SCHEMES = {"w8a8": "W8A8", "w4a16": "W4A16", "fp8": "FP8_DYNAMIC", "nvfp4": "NVFP4"}


def main() -> int:
    """Do the job; 1 where it failed, with the reason as the last line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        quantise(job)
    except Exception as error:  # whatever a library raises is this job's failure
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        print(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return 1
    return 0


def quantise(job: dict[str, Any]) -> None:
    """The same job gives the same weights on the same machine."""
    folder, out = Path(job["folder"]), Path(job["out"])
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(int(job["seed"]))
    torch.use_deterministic_algorithms(True, warn_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)
    asked: dict[str, Any] = {"model": model, "recipe": recipe_of(job["scheme"], model, gptq=job["gptq"])}
    if rows := rows_of(job, tokenizer):
        from datasets import Dataset

        asked |= {
            "dataset": Dataset.from_list(rows),
            "max_seq_length": int(job["max_length"]),
            "num_calibration_samples": len(rows),
            "shuffle_calibration_samples": False,
        }
    oneshot(**asked)
    model.save_pretrained(out, save_compressed=True)
    tokenizer.save_pretrained(out)
    # How it ends its answers, and its template, are the checkpoint's own: byte for byte.
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def rows_of(job: dict[str, Any], tokenizer: Any) -> list[dict[str, list[int]]]:
    """The calibration conversations as tokens, cut to the length; none where scales come from the weights alone."""
    rows = []
    for messages in job["calibration"]:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=int(job["max_length"]))["input_ids"]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
    return rows


def _end_with(parent: int) -> None:
    """Nobody waits for this job any more once its starter is dead."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def recipe_of(scheme: str, model: Any, *, gptq: bool) -> list[Any]:
    """LLM Compressor's modifiers. The head stays as it is: it costs little, and its errors are answers."""
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    # W8A8: int8 weights by channel, int8 activations by token as they come. W4A16: int4 weights in groups.
    how: dict[str, Any] = {"targets": "Linear", "scheme": SCHEMES[scheme]}
    if scheme == "w4a16":
        how = {"config_groups": {"group_0": in_groups(model)}}
    modifier = GPTQModifier if gptq and scheme in ("w8a8", "w4a16") else QuantizationModifier
    return [modifier(ignore=["lm_head"], **how)]


def group_of(layers: dict[str, int]) -> int:
    """The largest group that divides what every layer reads, of `layers` by name: 576 values are 4.5 groups of 128."""
    for name, reads in layers.items():
        if reads % GROUPS[-1]:
            raise ValueError(f"{name} reads {reads} values, which groups of {GROUPS[-1]} do not divide")
    return next(one for one in GROUPS if all(reads % one == 0 for reads in layers.values()))


def in_groups(model: Any) -> Any:
    """W4A16 in groups that fit `model`."""
    import torch
    from compressed_tensors.quantization import preset_name_to_scheme

    layers = {name: one.in_features for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    group = group_of({name: reads for name, reads in layers.items() if not name.endswith("lm_head")})
    scheme = preset_name_to_scheme(SCHEMES["w4a16"], ["Linear"])
    scheme.weights.group_size = group
    return scheme


if __name__ == "__main__":
    sys.exit(main())
