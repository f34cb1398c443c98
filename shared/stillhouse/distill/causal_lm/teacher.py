"""A local teacher: a causal language model of the student's own tokenizer, which says what it would have written.

Its probabilities are compared with the student's token by token, so both must cut texts into the same tokens and show
questions in the same layout. Tables of the two may be padded to different widths: only tokens are compared.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.distill.causal_lm.base import check_checkpoint, load_model, load_tokenizer
from stillhouse.distill.causal_lm.forward import logits_by, states_of
from stillhouse.distill.causal_lm.packing import Batch
from stillhouse.distill.objectives.tokens import log_probabilities
from stillhouse.models.port import ModelError


class LocalTeacher:
    """The teacher's model, ready to be asked."""

    def __init__(self, model: Any, vocabulary: int) -> None:
        """`vocabulary`: tokens that teacher and student have in common, which is all of them."""
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self._head = model.get_output_embeddings()

    @classmethod
    def load(cls, folder: Path, tokenizer: Any) -> LocalTeacher:
        """The teacher in `folder`. Raises `ModelError` where its tokenizer or chat template is not the student's."""
        check_checkpoint(folder)
        check_tokenizers(folder, load_tokenizer(folder), tokenizer)
        return cls(load_model(folder, tokenizer), len(tokenizer))

    def head_only(self) -> LocalTeacher:
        """The same without what is only needed for new states: `log_probs` goes on working."""
        setattr(self.model, self.model.base_model_prefix, nn.Module())
        return self

    @torch.no_grad()
    def states(self, batch: Batch) -> Tensor:
        """Last hidden states [m, width] at a batch's learned tokens, from which `log_probs` follow."""
        return states_of(self.model, batch)

    @torch.no_grad()
    def log_probs(self, states: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities float32 [m, tokens] of `states`."""
        weight = self._head.weight
        logits = logits_by(self._head, self.model.config, states.to(weight.device, weight.dtype))
        return log_probabilities(logits, temperature, self.vocabulary)


def check_tokenizers(folder: Path, teacher: Any, student: Any) -> None:
    """Refuse a teacher that reads other tokens, or questions in another layout. Raises `ModelError`."""
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    if theirs != ours:
        differing = sum(theirs.get(token) != number for token, number in ours.items())
        raise ModelError(
            f"teacher_model {folder}: its tokenizer has {len(theirs):,} tokens, the student's {len(ours):,}, and "
            f"{differing:,} of the student's mean another id there; token probabilities can only be taught between "
            'models of one tokenizer: use objective = "hard", or a teacher of the student\'s family.'
        )
    if teacher.eos_token_id != student.eos_token_id:
        raise ModelError(
            f"teacher_model {folder}: it ends answers with {teacher.eos_token!r}, the student with "
            f"{student.eos_token!r}; make their tokenizer_config.json name the same one."
        )
    if teacher.chat_template != student.chat_template:
        raise ModelError(
            f"teacher_model {folder}: its chat template is not the student's, so it would be shown questions in a "
            "layout that it was not trained on; give both the same template."
        )


def teacher_digest(folder: Path) -> str:
    """What names the teacher's weights: sha256 of its configuration and safetensors."""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with path.open("rb") as file:
            digest.update(json.dumps([path.name, hashlib.file_digest(file, "sha256").hexdigest()]).encode())
    return digest.hexdigest()
