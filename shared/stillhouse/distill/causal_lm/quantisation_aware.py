"""A tuned model learns to be rounded: its own answers' probabilities, from itself as it was, with rounded layers.

Quantisation-aware distillation: the unrounded model teaches (forward KL at recorded answers) the same model whose
linear layers compute on the grid of the quantised checkpoint (`compression.rounding`). Rounding the weights that come
out loses less than rounding those that went in; how much less is measured by whoever asks (`forms`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.distill.causal_lm.sft import Progress, tune
from stillhouse.distill.compression.rounding import Rounded, round_layers, unround_layers
from stillhouse.tasks.students import LanguageModel

RATE: Final = 2e-5  # what is learned already should only move by fractions of a step of the grid


def learn_rounded(
    candidate: LanguageModel,
    plain: Path,
    out: Path,
    scheme: Rounded,
    train: Sequence[WrittenText],
    select: Sequence[WrittenText],
    *,
    on_progress: Callable[[Progress], object] = lambda part: None,
    threads: int = 1,
) -> None:
    """Write to the new folder `out` the checkpoint `plain` after `quantization_aware_epochs` of learning rounded.

    `out` holds float weights; quantise them by rounding to the nearest. Checkpoints are kept beside it, so that a run
    that was stopped goes on. Raises `ModelError`, `OSError`.
    """
    taught = LanguageModel(
        architecture="causal_lm",
        base=str(plain),
        method="full",
        teacher_model=str(plain),
        objective="forward_kl",
        epochs=candidate.quantization_aware_epochs,
        learning_rate=RATE,
        batch_size=candidate.batch_size,
        step_tokens=candidate.step_tokens,
        max_tokens=candidate.max_tokens,
        precision=candidate.precision,
        seed=candidate.seed,
    )
    work = out.with_name(f".{out.name}.learning")
    work.mkdir(parents=True, exist_ok=True)
    tuned = tune(
        taught,
        plain,
        train,
        select,
        on_progress=on_progress,
        checkpoint_dir=work,
        threads=threads,
        teacher=plain,
        changed=lambda model: round_layers(model, scheme),
    )
    unround_layers(tuned.model)
    staging = out.with_name(f".{out.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    tuned.model.save_pretrained(str(staging), safe_serialization=True)
    tuned.tokenizer.save_pretrained(str(staging))
    staging.rename(out)
    shutil.rmtree(work)
