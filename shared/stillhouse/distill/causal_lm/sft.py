"""Fine-tuning a language model on what a teacher wrote, or would have: the loop that every rung of a ladder shares.

Sequence-level distillation (Kim & Rush 1606.07947) is the plain case: the student learns to write the recorded answer
token by token, the mean over the answers' tokens of

    -log p_student(token | question, the answer so far)

Where a local teacher can score answers, the divergence from its probabilities takes that loss's place (`lessons`): at
recorded answers, scored once (`scores`), or at answers that the student drew itself (`on_policy`). The base may be cut
first (`pruning`), which learning then heals.

Questions are read and not learned. Either low-rank adapters learn (LoRA, Hu et al. 2106.09685: W + 2 B A beside every
linear layer) and are merged into the weights at the end, or every weight does. AdamW (1711.05101) with linear warm-up
and cosine decay. Examples are packed (`packing`), gradients of several batches are added up to one step, and losses
are computed in float32 for the answers' tokens only: most of a small model's work is its vocabulary. Where memory runs
out fewer rows go through the model at once, and the step stays what it is.

Deterministic on a CPU: the same data and seed give the same weights, also when the run was killed on the way and goes
on from its checkpoint. The part of the run with the smallest loss on `select` is kept. Under torchrun each process
takes its share of every step (`workers`).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import Encoded, WrittenText, encode, without_marks
from stillhouse.distill.causal_lm.forward import logits_of, states_of
from stillhouse.distill.causal_lm.lessons import Lesson, drawn, hard, soft
from stillhouse.distill.causal_lm.memory import halving
from stillhouse.distill.causal_lm.on_policy import draw, draws
from stillhouse.distill.causal_lm.packing import SHORTEST_ROW, Batch, batch_of, pack
from stillhouse.distill.causal_lm.scores import Scores, score
from stillhouse.distill.causal_lm.teacher import LocalTeacher, teacher_digest
from stillhouse.distill.causal_lm.workers import Workers, workers
from stillhouse.distill.checkpoint import Checkpoints
from stillhouse.distill.fitting import torch_set_up
from stillhouse.distill.pruning.prune import prune
from stillhouse.models.chat.marks import control_tokens
from stillhouse.models.port import ModelError
from stillhouse.tasks.students import LanguageModel

WARM_UP: Final = 0.05  # of all steps
PARTS: Final = 4  # of an epoch: after each the student is asked about `select`, and a checkpoint is written
MOST_SELECT: Final = 100  # examples that choose the part; all of them would take longer than training
RATES: Final = {"lora": 1e-3, "full": 1e-4}
CLIP: Final = 1.0  # largest norm of a step's gradient
RUN_VERSION: Final = 2

Change = Callable[[Any], object]


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
    marked: int  # texts with marks of the chat template
    trained_tokens: int
    answer_tokens: int
    packing_share: float  # of the rows' places that hold tokens
    rows_at_once: int  # rows of a batch that memory allowed
    kept_layers: tuple[int, ...] = ()  # of the base, where it was pruned
    score_bytes_per_token: float = 0.0  # that a local teacher's scores take on disk


def tune(
    candidate: LanguageModel,
    base: Path,
    train: Sequence[WrittenText],
    select: Sequence[WrittenText],
    *,
    on_progress: Callable[[Progress], object],
    checkpoint_dir: Path,
    threads: int = 1,
    teacher: Path | None = None,
    changed: Change | None = None,
) -> Tuned:
    """Train `candidate` from `base` on `train`; the part of the run that is best on `select` is kept.

    `teacher` is the folder of `candidate.teacher_model`. `changed` is done to the model before it learns. In
    `checkpoint_dir`, which must exist, a run with the same arguments that was stopped goes on where it was; the
    teacher's scores are kept there too. Raises `ModelError`, also where memory does not suffice for a single row, and
    `OSError`.
    """
    tokenizer = load_tokenizer(base)
    marks = control_tokens(base)
    plain, marked = without_marks(marks, train)
    learnt, too_long = encode(tokenizer, plain, candidate.max_tokens)
    shown, _ = encode(tokenizer, without_marks(marks, select)[0][-MOST_SELECT:], candidate.max_tokens)
    if not learnt or not shown:
        raise ModelError(
            f"No example has at most {candidate.max_tokens} tokens with its answer and no mark of the chat template; "
            "set a larger max_tokens."
        )
    if (teacher is None) != (candidate.teacher_model is None):
        raise ModelError("teacher_model of the student and the folder of the teacher belong together; give both.")
    with torch_set_up(threads), workers() as group:
        torch.manual_seed(candidate.seed)
        padding = int(tokenizer.eos_token_id)
        row = max(SHORTEST_ROW, max(len(example) for example in (*learnt, *shown)))
        loaded = load_model(base, tokenizer, float32=candidate.method == "full")
        cut = prune(loaded, candidate, learnt, padding) if candidate.pruned else None
        if changed is not None:
            changed(loaded)
        model = _learning(loaded, candidate)
        device = next(model.parameters()).device
        digest = teacher_digest(teacher) if teacher is not None else ""
        lesson, asked, score_bytes = _lessons(
            candidate, teacher, digest, tokenizer, learnt, padding, checkpoint_dir, group
        )
        choosing = [batch_of([[example] for example in shown[i : i + 8]], padding) for i in range(0, len(shown), 8)]
        plan = [step for epoch in range(math.ceil(candidate.epochs)) for step in _steps(learnt, candidate, row, epoch)][
            : max(1, round(candidate.epochs * len(_steps(learnt, candidate, row, 0))))
        ]
        rate = candidate.learning_rate or RATES[candidate.method]
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
        checkpoints = Checkpoints(checkpoint_dir, _run_name(candidate, digest, learnt, shown))
        state = checkpoints.resume(model, optimizer)
        learner = _Learner(
            model, padding, device, group, candidate.precision, max(1, candidate.batch_size // row), learning
        )

        parts = max(1, round(PARTS * candidate.epochs))
        ends = [round(len(plan) * (part + 1) / parts) for part in range(parts)]
        first, started, tokens = state.epoch, time.monotonic(), 0
        for part in range(first, parts):
            before = ends[part - 1] if part else 0
            losses: list[float] = []
            model.train()
            for number in range(before, ends[part]):
                for share in optimizer.param_groups:
                    share["lr"] = rate * _share_of_rate(number + 1, len(plan))
                if asked is not None and draws(candidate.on_policy, candidate.seed, number):
                    own = _drawn(model, asked, candidate, plan[number], learnt, padding, number, group)
                    rows = pack([len(one) for one in own], max(row, *(len(one) for one in own))) if own else []
                    losses.append(learner.step(rows, own, drawn(candidate, asked)))
                else:
                    losses.append(learner.step(plan[number][group.rank :: group.world], learnt, lesson))
                if not math.isfinite(losses[-1]):
                    raise ModelError(f"Training diverged at step {number + 1}; set a learning_rate below {rate:g}.")
                torch.nn.utils.clip_grad_norm_(learning, CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                tokens += sum(len(learnt[i]) for packed in plan[number] for i in packed)
            trained = time.monotonic() - started
            loss = learner.loss_of(choosing)
            state = replace(state, epoch=part + 1, seconds=state.seconds + trained)
            if loss < state.best_loss:
                state = replace(state, best_epoch=part + 1, best_loss=loss)
            if group.first:
                checkpoints.save(state, model, optimizer)
            group.wait()
            seconds = time.monotonic() - started
            if group.first:
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
    rows_of_run = sum(len(step) for step in plan)
    packed = sum(len(learnt[i]) for step in plan for packed_row in step for i in packed_row)
    return Tuned(
        merged.eval(),
        tokenizer,
        too_long,
        marked,
        packed,
        sum(len(learnt[i]) - learnt[i].answer_at for step in plan for packed_row in step for i in packed_row),
        packed / (rows_of_run * row),
        learner.rows_at_once,
        cut.layers if cut is not None else (),
        score_bytes,
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


def _lessons(
    candidate: LanguageModel,
    folder: Path | None,
    digest: str,
    tokenizer: Any,
    learnt: Sequence[Encoded],
    padding: int,
    work: Path,
    group: Workers,
) -> tuple[Lesson, LocalTeacher | None, float]:
    """How recorded answers teach, the teacher of drawn ones where there are some, and its scores' bytes per token."""
    if folder is None:
        return hard, None, 0.0
    asked = LocalTeacher.load(folder, tokenizer) if candidate.on_policy > 0 else None
    if candidate.on_policy >= 1:
        return hard, asked, 0.0

    def scored() -> Scores:
        return score(
            work / "scores",
            lambda: asked or LocalTeacher.load(folder, tokenizer),
            digest,
            learnt,
            padding,
            k=candidate.top_k,
            temperature=candidate.distill_temperature,
            batch_tokens=candidate.batch_size,
        )

    found = scored() if group.first else None
    group.wait()
    found = found or scored()  # what the first process wrote
    if found.teacher is not None and asked is None:
        found.teacher.head_only()
    return soft(candidate, found, len(tokenizer)), asked, found.bytes_per_token


def _drawn(
    model: Any,
    teacher: LocalTeacher,
    candidate: LanguageModel,
    step: list[list[int]],
    learnt: Sequence[Encoded],
    padding: int,
    number: int,
    group: Workers,
) -> list[Encoded]:
    """The student's own answers to this process's share of a step's questions."""
    mine = [learnt[i] for i in [i for row in step for i in row][group.rank :: group.world]]
    if not mine:
        return []
    # Twice the longest recorded answer: what goes on longer has lost its thread, and teaches nothing more.
    longest = min(candidate.max_new_tokens, 2 * max(len(one) - one.answer_at for one in mine))

    def ask(size: int) -> list[Encoded]:
        return [
            answer
            for start in range(0, len(mine), size)
            for answer in draw(
                model,
                mine[start : start + size],
                end=padding,
                padding=padding,
                vocabulary=teacher.vocabulary,
                longest=longest,
                seed=[candidate.seed, number, group.rank, start],
            )
        ]

    return halving(ask, len(mine), "drawn answer")[0]


def _steps(examples: Sequence[Encoded], candidate: LanguageModel, row: int, epoch: int) -> list[list[list[int]]]:
    """An epoch's optimiser steps, each a list of rows, each a list of places in `examples`; mixed by seed and epoch."""
    order = np.random.default_rng([candidate.seed, epoch]).permutation(len(examples))
    rows = [[int(order[i]) for i in packed] for packed in pack([len(examples[i]) for i in order], row)]
    size = max(1, candidate.step_tokens // row)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@dataclass(slots=True)
class _Learner:
    """Adds up the gradients of a step's rows, as many at a time as memory allows, over all processes."""

    model: Any
    padding: int
    device: torch.device
    group: Workers
    precision: str
    rows_at_once: int
    learning: list[torch.nn.Parameter] = field(default_factory=list)

    def step(self, rows: Sequence[Sequence[int]], examples: Sequence[Encoded], lesson: Lesson) -> float:
        """The gradients of this process's `rows` and all others'; the loss per answer token of all of them."""
        own = sum(examples[i].weight * (len(examples[i]) - examples[i].answer_at) for row in rows for i in row)
        total = self.group.total(own, self.device)

        def add(size: int) -> float:
            self.model.zero_grad(set_to_none=True)  # of an attempt that memory did not suffice for
            loss = 0.0
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                batch = batch_of([[examples[i] for i in row] for row in chosen], self.padding).to(self.device)
                with self._precise():
                    logits = logits_of(self.model, states_of(self.model, batch))
                    part = lesson(logits, batch, [i for row in chosen for i in row], examples) / total
                part.backward()  # type: ignore[no-untyped-call]
                loss += float(part.detach())
            return loss

        loss, self.rows_at_once = halving(add, self.rows_at_once, "row")
        self.group.sum_gradients(self.learning)
        return self.group.total(loss, self.device)

    def loss_of(self, batches: Sequence[Batch]) -> float:
        """The mean loss per recorded answer token; the same for every process."""
        own = batches[self.group.rank :: self.group.world]
        self.model.eval()
        with torch.no_grad(), self._precise():
            summed = sum(float(_summed_loss(self.model, batch.to(self.device))) for batch in own)
        weights = sum(float(batch.weights.sum()) for batch in batches)
        return self.group.total(summed, self.device) / weights

    def _precise(self) -> Any:
        """bfloat16 for matrix products, where that is wanted."""
        kind = self.device.type
        wanted = self.precision == "bfloat16" or (self.precision == "auto" and kind == "cuda")
        return torch.autocast(kind, torch.bfloat16) if wanted else nullcontext()


def _summed_loss(model: Any, batch: Batch) -> Tensor:
    """The weighted sum of the answers' tokens' losses, float32."""
    return hard(logits_of(model, states_of(model, batch)), batch, (), ())


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


def _run_name(candidate: LanguageModel, teacher: str, train: Sequence[Encoded], select: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    # Not the batch: it only says how much is added up at once, and is halved where memory is short.
    facts = (RUN_VERSION, candidate.model_dump(mode="json", exclude={"batch_size"}), teacher, torch.__version__)
    digest.update(json.dumps(facts).encode())
    for example in (*train, *select):
        digest.update(example.ids.tobytes() + f"{example.answer_at} {example.weight}".encode())
    return digest.hexdigest()
