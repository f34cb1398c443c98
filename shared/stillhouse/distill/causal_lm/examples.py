"""From questions and answers to tokens: what the student reads, and what of it it learns to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.chat.marks import imitated
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A question and the answer to learn; `weight` counts it more or less than others."""

    request: ChatRequest
    answer: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a question and its answer, int32 [n]; those from `answer_at` on are learned, `weight` each."""

    ids: NDArray[np.int32]
    answer_at: int
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)


def messages_of(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages as chat templates take them."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in request.messages
    ]


def without_marks(marks: tuple[str, ...], texts: Sequence[WrittenText]) -> tuple[list[WrittenText], int]:
    """The texts in which nobody wrote one of the chat template's `marks`, and how many have one.

    What stands behind such a mark would be learned, and was said, in the words of another role; when it serves, the
    teacher answers such a question too.
    """
    kept = [
        text
        for text in texts
        if imitated(marks, (text.answer, *(message.text for message in text.request.messages))) is None
    ]
    return kept, len(texts) - len(kept)


def encode(tokenizer: Any, texts: Sequence[WrittenText], max_tokens: int) -> tuple[list[Encoded], int]:
    """The tokens of each text that has at most `max_tokens`, and how many were longer.

    The answer ends with the tokenizer's end-of-sequence token. Raises `ModelError` where the chat template does not
    put the answer behind the question, so that training would teach another layout than the one that is served.
    """
    encoded, too_long = [], 0
    for text in texts:
        asked = messages_of(text.request)
        said = [*asked, {"role": "assistant", "content": text.answer}]
        question = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(said, add_generation_prompt=False, tokenize=False)
        if not whole.startswith(question):
            raise ModelError(
                "The chat template of the base model renders a question otherwise when its answer follows; what "
                "is trained would not be what is asked. Give the base a template that only appends."
            )
        question_ids = tokenizer(question, add_special_tokens=False)["input_ids"]
        # Apart: a tokenizer could join the last piece of the question with the first of the answer.
        answer_ids = tokenizer(whole[len(question) :], add_special_tokens=False)["input_ids"]
        if tokenizer.eos_token_id not in answer_ids:
            answer_ids.append(tokenizer.eos_token_id)
        end = len(answer_ids) - answer_ids[::-1].index(tokenizer.eos_token_id)  # templates add a line break behind it
        ids = question_ids + answer_ids[:end]
        if len(ids) > max_tokens:
            too_long += 1
            continue
        encoded.append(Encoded(np.array(ids, dtype=np.int32), len(question_ids), text.weight))
    return encoded, too_long
