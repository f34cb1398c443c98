"""What `analyze` and `design` look at: `minilm`, a folder of config.json and safetensors, or a student's artefact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.distill.architecture.analyze import Analysis, analyze
from stillhouse.distill.architecture.counting import EncoderShape
from stillhouse.distill.architecture.graph import analyze_graph
from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.models.features import SPEC_FILE
from stillhouse.models.port import ModelError

CONFIG_FILE = "config.json"


class States(nn.Module):
    """A transformer that takes token ids and a mask, and gives its last states float32 [B, n, width]."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`input_ids` and `attention_mask` int64 [B, n]."""
        states: Tensor = self.transformer(input_ids=input_ids, attention_mask=attention_mask)[0]
        return states


def analyze_model(name: str, *, length: int = 32, batches: tuple[int, ...] | None = None, repeats: int = 5) -> Analysis:
    """Analyse what `name` names, by default in batches of 1, 8 and 32 texts; a student as the graph that serves.

    Raises `ModelError`, also for a student's batches: it answers one text at a time (`models.student`).
    """
    folder = folder_of(name)
    if (folder / SPEC_FILE).is_file():
        if batches is not None and set(batches) != {1}:
            raise ModelError(f"{name}: a student serves one text at a time, so it is analysed so; leave --batch away.")
        return analyze_graph(folder, length=length, repeats=repeats)
    model = load(folder)
    return analyze(model, tokens, name, length=length, batches=batches or (1, 8, 32), repeats=repeats)


def tokens(batch: int, length: int) -> tuple[Tensor, ...]:
    """Token ids and a mask, int64 [batch, length]; what the ids are costs the same."""
    return torch.ones(batch, length, dtype=torch.long), torch.ones(batch, length, dtype=torch.long)


def folder_of(name: str) -> Path:
    """The folder that `name` names. Raises `ModelError` where there is no model."""
    folder = encoder_source() if name == "minilm" else Path(name)
    if not any((folder / file).is_file() for file in (CONFIG_FILE, SPEC_FILE)):
        raise ModelError(
            f"{name}: no model; name `minilm`, a folder with {CONFIG_FILE} and safetensors, or a student's artefact."
        )
    return folder


def load(folder: Path) -> States:
    """The transformer of a folder, its attention in plain operations so that they are counted. Raises `ModelError`."""
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no safetensors; other formats may run code, and are not read.")
    from transformers import AutoModel

    model = quietly(
        lambda: AutoModel.from_pretrained(
            str(folder), attn_implementation="eager", local_files_only=True, use_safetensors=True
        ),
        folder,
    )
    return States(model).eval()


def shape_of(folder: Path) -> EncoderShape:
    """The shape of the encoder in `folder`, from its configuration. Raises `ModelError` where it is none."""
    from transformers import AutoConfig

    config = quietly(lambda: AutoConfig.from_pretrained(str(folder), local_files_only=True), folder)
    try:
        return EncoderShape(
            layers=int(config.num_hidden_layers),
            width=int(config.hidden_size),
            ffn=int(config.intermediate_size),
            heads=int(config.num_attention_heads),
            vocabulary=int(config.vocab_size),
            positions=int(config.max_position_embeddings),
        )
    except (AttributeError, TypeError):
        raise ModelError(f"{folder}: not the configuration of a transformer encoder; name one as BERT's.") from None


def quietly(load_it: Callable[[], Any], folder: Path) -> Any:
    """What `load_it` gives, without transformers' bars and warnings. Raises `ModelError` where it cannot be loaded."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        return load_it()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: transformers cannot load it ({str(error).splitlines()[0][:200]}).") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
