"""Supervised fine-tuning on a teacher's answers: sequence-level distillation (Kim & Rush 1606.07947).

The student learns to write the teacher's answer token by token: the mean over the answers' tokens of

    -log p_student(token | question, the answer so far)

Questions are read and not learned. Either low-rank adapters learn (LoRA, Hu et al. 2106.09685: W + 2 B A beside every
linear layer) and are merged into the weights at the end, or every weight does. AdamW (1711.05101) with linear warm-up
and cosine decay. Examples are packed (`packing`), gradients of several batches are added up to one step, and losses
are computed in float32 for the answers' tokens only: most of a small model's work is its vocabulary.

Deterministic on a CPU: the same data and seed give the same weights, also when the run was killed on the way and goes
on from its checkpoint. The part of the run with the smallest loss on `select` is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import Encoded, WrittenText, encode
from stillhouse.distill.causal_lm.packing import SHORTEST_ROW, Batch, batch_of, pack
from stillhouse.distill.checkpoint import Checkpoints
from stillhouse.distill.fitting import torch_set_up
from stillhouse.models.port import ModelError
from stillhouse.tasks.students import LanguageModel

WARM_UP: Final = 0.05  # of all steps
PARTS: Final = 4  # of an epoch: after each the student is asked about `select`, and a checkpoint is written
MOST_SELECT: Final = 100  # examples that choose the part; all of them would take longer than training
RATES: Final = {"lora": 1e-3, "full": 1e-4}
CLIP: Final = 1.0  # largest norm of a step's gradient
RUN_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """One part's end. Losses in nats per token; `fraction` of the run, `seconds` and `eta_s` of this attempt."""

    fraction: float
    epoch: float
    train_loss: float
    select_loss: float
    learning_rate: float
    tokens_per_s: float
    seconds: float
    eta_s: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out: the merged model with its tokenizer, and what was left out of training."""

    model: Any
    tokenizer: Any
    too_long: int
    trained_tokens: int
    answer_tokens: int
    packing_share: float  # of the rows' places that hold tokens


def tune(
    candidate: LanguageModel,
    base: Path,
    train: Sequence[WrittenText],
    select: Sequence[WrittenText],
    *,
    on_progress: Callable[[Progress], None],
    checkpoint_dir: Path,
    threads: int = 1,
) -> Tuned:
    """Train `candidate` from `base` on `train`; the part of the run that is best on `select` is kept.

    `checkpoint_dir` must exist; a run with the same arguments that was stopped there goes on where it was. Raises
    `ModelError`, `OSError`, and torch's errors of memory as they are.
    """
    tokenizer = load_tokenizer(base)
    learnt, too_long = encode(tokenizer, train, candidate.max_tokens)
    shown, _ = encode(tokenizer, select[-MOST_SELECT:], candidate.max_tokens)
    if not learnt or not shown:
        raise ModelError(
            f"No example has at most {candidate.max_tokens} tokens with its answer; set a larger max_tokens."
        )
    with torch_set_up(threads):
        torch.manual_seed(candidate.seed)
        model = _learning(load_model(base, tokenizer), candidate)
        device = next(model.parameters()).device
        padding = int(tokenizer.eos_token_id)
        row = max(SHORTEST_ROW, max(len(example) for example in (*learnt, *shown)))
        choosing = [batch_of([[example] for example in shown[i : i + 8]], padding) for i in range(0, len(shown), 8)]
        plan = [step for epoch in range(math.ceil(candidate.epochs)) for step in _steps(learnt, candidate, row, epoch)][
            : max(1, round(candidate.epochs * len(_steps(learnt, candidate, row, 0))))
        ]
        rate = candidate.learning_rate or RATES[candidate.method]
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
        checkpoints = Checkpoints(checkpoint_dir, _run_name(candidate, learnt, shown))
        state = checkpoints.resume(model, optimizer)

        parts = max(1, round(PARTS * candidate.epochs))
        ends = [round(len(plan) * (part + 1) / parts) for part in range(parts)]
        first, started, tokens = state.epoch, time.monotonic(), 0
        for part in range(first, parts):
            before = ends[part - 1] if part else 0
            losses: list[float] = []
            model.train()
            for number in range(before, ends[part]):
                for group in optimizer.param_groups:
                    group["lr"] = rate * _share_of_rate(number + 1, len(plan))
                losses.append(_step(model, plan[number], learnt, candidate.batch_size // row, padding, device))
                torch.nn.utils.clip_grad_norm_(learning, CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                tokens += sum(len(learnt[i]) for packed in plan[number] for i in packed)
            trained = time.monotonic() - started
            loss = _loss_of(model, choosing, device)
            state = replace(state, epoch=part + 1, seconds=state.seconds + trained)
            if loss < state.best_loss:
                state = replace(state, best_epoch=part + 1, best_loss=loss)
            checkpoints.save(state, model, optimizer)
            seconds = time.monotonic() - started
            on_progress(
                Progress(
                    fraction=(part + 1) / parts,
                    epoch=ends[part] / len(plan) * candidate.epochs,
                    train_loss=float(np.mean(losses)) if losses else float("nan"),
                    select_loss=loss,
                    learning_rate=optimizer.param_groups[0]["lr"],
                    tokens_per_s=tokens / max(trained, 1e-9),
                    seconds=seconds,
                    eta_s=seconds / (part + 1 - first) * (parts - part - 1),
                )
            )
        checkpoints.load_best(state, model)
        merged = model.merge_and_unload() if candidate.method == "lora" else model
    rows = sum(len(step) for step in plan)
    packed = sum(len(learnt[i]) for step in plan for packed_row in step for i in packed_row)
    return Tuned(
        merged.eval(),
        tokenizer,
        too_long,
        packed,
        sum(len(learnt[i]) - learnt[i].answer_at for step in plan for packed_row in step for i in packed_row),
        packed / (rows * row),
    )


def _learning(model: Any, candidate: LanguageModel) -> Any:
    """The model with what learns in it: adapters beside every linear layer but the vocabulary's, or everything."""
    if candidate.method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=candidate.rank,
        lora_alpha=2 * candidate.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def _steps(examples: Sequence[Encoded], candidate: LanguageModel, row: int, epoch: int) -> list[list[list[int]]]:
    """An epoch's optimiser steps, each a list of rows, each a list of places in `examples`; mixed by seed and epoch."""
    order = np.random.default_rng([candidate.seed, epoch]).permutation(len(examples))
    rows = [[int(order[i]) for i in packed] for packed in pack([len(examples[i]) for i in order], row)]
    size = max(1, candidate.step_tokens // row)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _step(
    model: Any, rows: list[list[int]], examples: Sequence[Encoded], size: int, padding: int, device: torch.device
) -> float:
    """Add up the gradients of one step's rows, `size` of them at a time; the loss per token."""
    total = sum(examples[i].weight * (len(examples[i]) - examples[i].answer_at) for row in rows for i in row)
    loss = 0.0
    for start in range(0, len(rows), max(1, size)):
        chosen = [[examples[i] for i in row] for row in rows[start : start + max(1, size)]]
        part = _summed_loss(model, batch_of(chosen, padding).to(device)) / total
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def _summed_loss(model: Any, batch: Batch) -> Tensor:
    """The weighted sum of the answers' tokens' losses, float32."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    # Not for the questions' tokens: their place in the vocabulary is nobody's business, and costs most.
    logits = inner.get_output_embeddings()(hidden.flatten(0, 1)[batch.at]).float()
    return (functional.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()


def _loss_of(model: Any, batches: Sequence[Batch], device: torch.device) -> float:
    """The mean loss per answer token."""
    model.eval()
    with torch.no_grad():
        summed = sum(float(_summed_loss(model, batch.to(device))) for batch in batches)
    return summed / sum(float(batch.weights.sum()) for batch in batches)


def _share_of_rate(step: int, steps: int) -> float:
    """Share of the learning rate at step 1 ... steps."""
    warm = max(1, round(WARM_UP * steps))
    if step <= warm:
        return step / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _run_name(candidate: LanguageModel, train: Sequence[Encoded], select: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    # Not the batch: it only says how much is added up at once, and is halved where memory is short.
    facts = (RUN_VERSION, candidate.model_dump(mode="json", exclude={"batch_size"}), torch.__version__)
    digest.update(json.dumps(facts).encode())
    for example in (*train, *select):
        digest.update(example.ids.tobytes() + f"{example.answer_at} {example.weight}".encode())
    return digest.hexdigest()
