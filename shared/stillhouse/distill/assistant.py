"""More texts than the teacher answered, at no call of it: made of recorded ones, and answered by an assistant between
teacher and student (Mirzadeh et al. 1902.03393): the sentence encoder as it came, with a linear head on its vectors
that learns the teacher's probabilities. It agrees with the teacher better than any fast student, and is asked instead
of it. Mixed and shortened texts are not like real ones, but what they teach is (Tang et al. 1903.12136 make theirs by
masking words and sampling n-grams).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stillhouse.distill.calibration import calibrate
from stillhouse.distill.cut_encoder import MAX_TOKENS, encoder_source, load_transformer, padding_bias
from stillhouse.distill.data import LabelledText, hard_targets, soft_targets
from stillhouse.models.features import TOKENIZER_FILE, load_tokenizer, prepare

FILE: Final = "assistant.json"
STRENGTHS: Final = (1e-4, 1e-5, 1e-6)  # of the penalty on squared weights, beside a mean loss
LEFT_OUT: Final = 0.2  # of the words of a shortened text
LONGEST: Final = 100  # words of a made text
SMALLEST: Final = 0.001  # as in recorded distributions
BATCH: Final = 32


def more_texts(
    train: Sequence[LabelledText],
    select: Sequence[LabelledText],
    labels: Sequence[str],
    per_text: int,
    *,
    seed: int,
    folder: Path,
    run: str,
) -> list[LabelledText]:
    """`per_text` made texts for each of `train`, with the assistant's answers; its penalty is chosen on `select`.

    They are kept in `folder` under the name `run`, so that a run that is resumed makes them once. Raises `ModelError`
    where the encoder is not installed, and `OSError`.
    """
    path = folder / FILE
    kept = _kept(path, run)
    if kept is not None:
        return kept
    made = recombined([prepare(text.text) for text in train], per_text * len(train), seed)
    learnt = sentence_vectors([prepare(text.text) for text in train])
    chosen_on = sentence_vectors([prepare(text.text) for text in select])
    weights = fit_soft_head(learnt, soft_targets(train, labels), chosen_on, hard_targets(select, labels))
    logits = sentence_vectors(made) @ weights[:-1] + weights[-1]
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    answered = []
    for text, row in zip(made, shares, strict=True):
        distribution = {labels[i]: float(row[i]) for i in np.flatnonzero(row >= SMALLEST).tolist()}
        answered.append(LabelledText(text, labels[int(row.argmax())], distribution))
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps([run, [[a.text, a.label, a.distribution] for a in answered]]), encoding="utf-8")
    os.replace(draft, path)
    return answered


def recombined(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` texts made of `texts`: half without some words, half the beginning of one and the end of another.

    >>> made = recombined(["where is it", "cancel the order"], 4, seed=0)
    >>> len(made), {word for text in made for word in text.split()} <= set("where is it cancel the order".split())
    (4, True)
    """
    random = np.random.default_rng(seed)
    words = [text.split() for text in texts]
    words = [of for of in words if of]
    if not words:
        return []
    made = []
    for place in range(count):
        first = words[int(random.integers(len(words)))]
        if place % 2:
            second = words[int(random.integers(len(words)))]
            taken = first[: int(random.integers(1, len(first) + 1))] + second[int(random.integers(len(second))) :]
        else:
            stays = random.random(len(first)) >= LEFT_OUT
            taken = [word for word, stay in zip(first, stays, strict=True) if stay] or first
        made.append(" ".join(taken[:LONGEST]))
    return made


def sentence_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """The encoder's sentence vectors of prepared texts, of length 1, float32 [n, width]. Raises `ModelError`."""
    tokenizer = load_tokenizer(encoder_source() / TOKENIZER_FILE, MAX_TOKENS)
    transformer = load_transformer().eval()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = np.argsort([len(row) for row in ids], kind="stable")
    found = np.empty((len(ids), int(transformer.config.hidden_size)), dtype=np.float32)
    with torch.no_grad():
        for start in range(0, len(ids), BATCH):
            places = order[start : start + BATCH]
            longest = max(len(ids[i]) for i in places)
            tokens = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in places])
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in places])
            states = transformer.embeddings(tokens)
            for layer in transformer.encoder.layer:
                states = layer(states, padding_bias(mask))
            mean = (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            found[places] = nn.functional.normalize(mean, dim=-1).numpy()
    return found


def fit_soft_head(
    vectors: NDArray[np.float32],
    soft: NDArray[np.float32],
    chosen_on: NDArray[np.float32],
    answers: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Softmax regression on probabilities `soft` [n, L]: weights float64 [width + 1, L], the last row is the bias.

    Mean cross-entropy with `soft` and a penalty on squared weights, by L-BFGS. Of each of `STRENGTHS`, strongest first,
    the one with the smallest calibrated loss on vectors `chosen_on` [m, width] with `answers` int64 [m] is taken.
    """
    from scipy.optimize import minimize

    table = np.column_stack([vectors, np.ones(len(vectors), dtype=np.float32)])
    shape = (table.shape[1], soft.shape[1])

    def loss(flat: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(shape)
        logits = table @ weights.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        sums = shares.sum(axis=1, keepdims=True)
        value = float((np.log(sums[:, 0]) - (soft * logits).sum(axis=1)).mean())
        gradient = (table.T @ (shares / sums - soft) / len(table)).astype(np.float64)
        penalised = weights.copy()
        penalised[-1] = 0.0
        return value + strength * float((penalised**2).sum()), (gradient + 2 * strength * penalised).ravel()

    flat = np.zeros(shape[0] * shape[1])
    best: tuple[float, NDArray[np.float64]] | None = None
    for strength in STRENGTHS:
        flat = minimize(loss, flat, (strength,), "L-BFGS-B", jac=True, options={"maxiter": 100}).x
        weights = flat.reshape(shape)
        _, chosen = calibrate((chosen_on @ weights[:-1] + weights[-1]).astype(np.float32), answers)
        if best is None or chosen < best[0]:
            best = (chosen, weights.copy())
    assert best is not None
    return best[1]


def _kept(path: Path, run: str) -> list[LabelledText] | None:
    """What an earlier attempt of the same run made; None where there is none, or it is spoilt."""
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        if raw[0] != run:
            return None
        return [LabelledText(text, label, distribution) for text, label, distribution in raw[1]]
    except (OSError, ValueError, TypeError, LookupError):
        return None
