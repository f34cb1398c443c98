"""What a local teacher says of recorded answers: asked once, kept on disk, read by every epoch and every objective.

Kept is either the k likeliest tokens and the mass of the others (`objectives.top_k`; 4 k + 2 bytes a token for
vocabularies up to 65,536), or the teacher's last hidden states (4 bytes for each of its width), from which all
probabilities follow exactly. A folder holds `part-NNNNN.safetensors` of 64 texts each and, written last, `scores.json`.
Every file is renamed into place whole, so scoring that was stopped goes on at the first part that is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from stillhouse.distill.causal_lm.examples import Encoded
from stillhouse.distill.causal_lm.memory import halving
from stillhouse.distill.causal_lm.packing import SHORTEST_ROW, batch_of, pack
from stillhouse.distill.causal_lm.teacher import LocalTeacher
from stillhouse.distill.objectives.divergence import Divergence, divergence
from stillhouse.distill.objectives.tokens import log_probabilities
from stillhouse.distill.objectives.top_k import TopK, joined, keep, merged
from stillhouse.files import read_json, write_json

TEXTS: Final = 64  # of a part
CARD: Final = "scores.json"
VERSION: Final = 1

Kept = TopK | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scores:
    """What is kept of each text's answer, in the order of the texts. `teacher` is asked for what states stand for."""

    kept: list[Kept]
    temperature: float
    bytes_per_token: float
    teacher: LocalTeacher | None

    def divergences(
        self, places: Sequence[int], logits: Tensor, vocabulary: int, name: Divergence, *, beta: float, skew: float
    ) -> Tensor:
        """The divergence [m] at every answer token of the texts at `places`, in order, of the student's `logits`."""
        q = log_probabilities(logits, self.temperature, vocabulary)
        chosen = [self.kept[place] for place in places]
        if self.teacher is None:
            p, q = merged(joined([one for one in chosen if isinstance(one, TopK)]), q)
        else:
            states = np.concatenate([one for one in chosen if not isinstance(one, TopK)])
            p = self.teacher.log_probs(torch.from_numpy(states), self.temperature).to(q.device)
        return divergence(name, p, q, beta=beta, skew=skew)


def score(
    folder: Path,
    teacher: Callable[[], LocalTeacher],
    digest: str,
    examples: Sequence[Encoded],
    padding: int,
    *,
    k: int | None,
    temperature: float = 1.0,
    batch_tokens: int = 2048,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Scores:
    """Score `examples`, or read what an earlier call with the same arguments left in `folder`.

    `k` None keeps states. `digest` names the teacher, which is only loaded where it is needed. Raises `ModelError`,
    `OSError`; ValueError for a k beyond the vocabulary.
    """
    of = _name(digest, examples, k, temperature)
    folder.mkdir(parents=True, exist_ok=True)
    if (read_json(folder / "asked.json") or {}).get("of") != of:
        for old in (*folder.glob("part-*"), folder / CARD):
            old.unlink(missing_ok=True)
        write_json(folder / "asked.json", {"of": of})
    starts = range(0, len(examples), TEXTS)
    found: list[list[Kept] | None] = [
        _read(folder / _file(number), examples[start : start + TEXTS], k) for number, start in enumerate(starts)
    ]
    asked: LocalTeacher | None = None
    rows_at_once = max(1, batch_tokens // SHORTEST_ROW)
    for number, start in enumerate(starts):
        if found[number] is None:
            asked = asked or teacher()
            texts = examples[start : start + TEXTS]
            found[number], rows_at_once = _ask(asked, texts, padding, k, temperature, rows_at_once)
            _write(folder / _file(number), found[number] or [])
        on_progress(min(1.0, (start + TEXTS) / len(examples)))
    kept = [one for part in found for one in part or []]
    tokens = sum(len(example) - example.answer_at for example in examples)
    used = sum((folder / _file(number)).stat().st_size for number in range(len(starts)))
    write_json(
        folder / CARD,
        {
            "of": of,
            "keeps": "states" if k is None else "top_k",
            "k": k,
            "temperature": temperature,
            "texts": len(examples),
            "tokens": tokens,
            "bytes": used,
            "bytes_per_token": used / max(1, tokens),
        },
    )
    if k is not None:
        return Scores(kept, temperature, used / max(1, tokens), None)
    return Scores(kept, temperature, used / max(1, tokens), asked or teacher())


def _ask(
    teacher: LocalTeacher,
    texts: Sequence[Encoded],
    padding: int,
    k: int | None,
    temperature: float,
    rows_at_once: int,
) -> tuple[list[Kept], int]:
    """What is kept of some texts, and how many rows memory allowed."""
    row = max(SHORTEST_ROW, max(len(text) for text in texts))
    rows = pack([len(text) for text in texts], row)
    device = next(teacher.model.parameters()).device

    def ask(size: int) -> list[Kept]:
        kept: dict[int, Kept] = {}
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            states = teacher.states(batch_of([[texts[i] for i in one] for one in chosen], padding).to(device))
            end = 0
            for place in (place for one in chosen for place in one):
                begin, end = end, end + len(texts[place]) - texts[place].answer_at
                own = states[begin:end].float()
                kept[place] = own.cpu().numpy() if k is None else keep(teacher.log_probs(own, temperature), k)
        return [kept[place] for place in range(len(texts))]

    return halving(ask, rows_at_once, "row of texts")


def _write(path: Path, kept: list[Kept]) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    top = [one for one in kept if isinstance(one, TopK)]
    if top:
        whole = joined(top)
        arrays = {"ids": whole.ids, "log_probs": whole.log_probs, "tail": whole.tail}
    else:
        arrays = {"states": np.concatenate([one for one in kept if not isinstance(one, TopK)])}
    temporary = path.with_suffix(".tmp")
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(temporary))
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: the teacher's scores cannot be written ({error}); free some space.") from None
    os.replace(temporary, path)


def _read(path: Path, texts: Sequence[Encoded], k: int | None) -> list[Kept] | None:
    """What a part holds of each text; None where it is not there or not whole."""
    try:
        arrays = load_file(str(path))
        whole: Kept = arrays["states"] if k is None else TopK(arrays["ids"], arrays["log_probs"], arrays["tail"])
    except (OSError, KeyError, SafetensorError):
        return None
    ends = np.cumsum([0, *(len(text) - text.answer_at for text in texts)])
    if len(whole.tail if isinstance(whole, TopK) else whole) != ends[-1]:
        return None
    return [whole[int(begin) : int(end)] for begin, end in itertools.pairwise(ends)]


def _file(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def _name(digest: str, examples: Sequence[Encoded], k: int | None, temperature: float) -> str:
    found = hashlib.sha256(json.dumps([VERSION, digest, k, temperature, len(examples)]).encode())
    for example in examples:
        found.update(example.ids.tobytes() + str(example.answer_at).encode())
    return found.hexdigest()
