"""Answers that the student draws itself, for a teacher to score: what it will meet when it serves.

A student that only ever reads its teacher's answers is lost after its own first mistake (exposure bias); scoring the
student's own answers teaches there (generalised knowledge distillation, Agarwal et al. 2306.13649, algorithm 1: with
probability lambda a step's answers are the student's, else recorded ones; gradients do not flow through the drawing).

TRL's `DistillationTrainer` does this for the divergences that `beta` spans. It is not used: it has neither MiniLLM nor
skewed divergences, mixes in no recorded answers, writes its optimizer's state as pickle, and does not go on where it
was stopped with the same weights. Tests compare the loss with its.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stillhouse.distill.causal_lm.examples import Encoded


def draws(share: float, seed: int, step: int) -> bool:
    """Whether the answers of a step are the student's own; the same for the same seed and step.

    >>> steps = [draws(0.25, seed=0, step=step) for step in range(1000)]
    >>> 200 < sum(steps) < 300
    True
    """
    return bool(np.random.default_rng([seed, step, 1]).random() < share)


@torch.no_grad()
def draw(
    model: Any, asked: Sequence[Encoded], *, end: int, padding: int, vocabulary: int, longest: int, seed: Sequence[int]
) -> list[Encoded]:
    """For each question of `asked` an answer of at most `longest` tokens, drawn at temperature 1 from all tokens.

    An answer ends with the token `end`, or is cut. `seed` decides everything but the weights.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))
    >>> asked = [Encoded(np.array([1, 5, 6, 2], dtype=np.int32), answer_at=3)]
    >>> own = draw(model, asked, end=2, padding=0, vocabulary=32, longest=4, seed=[0])[0]
    >>> own.ids[:3].tolist(), own.answer_at, len(own) <= 7
    ([1, 5, 6], 3, True)
    """
    device = next(model.parameters()).device
    widest = max(one.answer_at for one in asked)
    ids = torch.full((len(asked), widest), padding)
    mask = torch.zeros((len(asked), widest), dtype=torch.long)
    for row, one in enumerate(asked):
        ids[row, widest - one.answer_at :] = torch.from_numpy(one.ids[: one.answer_at].astype(np.int64))
        mask[row, widest - one.answer_at :] = 1
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = inner.get_output_embeddings().weight.shape[0]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
        found = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=longest,
            eos_token_id=end,
            pad_token_id=padding,
            suppress_tokens=list(range(vocabulary, rows)) or None,  # padding of the table is nobody's word
        )
    model.train(was_training)
    answers = found[:, widest:].cpu().numpy()
    drawn = []
    for one, answer in zip(asked, answers, strict=True):
        ends = np.flatnonzero(answer == end)
        said = answer[: ends[0] + 1] if len(ends) else answer
        drawn.append(Encoded(np.concatenate([one.ids[: one.answer_at], said.astype(np.int32)]), one.answer_at))
    return drawn
