"""The best student: hashed n-grams, the tuned encoder and a head on the encoder as it came, as one graph.

Each part learns alone, then three weights are fitted on the select texts: the logits are the parts' logits, weighted,
which is the geometric mean of what they believe: a logarithmic opinion pool (Heskes 1998, "Selecting weighting
factors in logarithmic opinion pools"), p(c) in proportion to the product over k of p_k(c)^w_k. They fail on different
texts: words that decide are for n-grams, what few texts teach is for the encoder as it came, which forgets nothing.
`make bench NAME=cascade` compares it with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.calibration import calibrate
from stillhouse.distill.cut_encoder import CutEncoder, padding_bias
from stillhouse.distill.data import LabelledText, hard_targets
from stillhouse.distill.fitting import torch_set_up
from stillhouse.distill.hashed_ngrams import HashedNgrams
from stillhouse.distill.training import (
    Ids,
    Progress,
    TrainedStudent,
    hold_back,
    inputs_of,
    predict,
    train,
)
from stillhouse.models.encoder import WIDTH
from stillhouse.models.features import Featuriser, prepare
from stillhouse.models.teacher import fit_head
from stillhouse.tasks.students import StudentCandidate

ENCODER_RATE: Final = 3e-4  # of the tuned layer, where the candidate names none
NGRAM_EPOCHS: Final = 12
HELD_OUT: Final = 7  # of so many texts one chooses the strength of the head's penalty


class Joint(nn.Module):
    """Three parts and their weights. The tuned and the untouched last layer share everything below them."""

    weights: Tensor

    def __init__(
        self, ngrams: HashedNgrams, tuned: CutEncoder, last: nn.Module, head: nn.Linear, weights: NDArray[np.float64]
    ) -> None:
        """`last`: the encoder's last kept layer as it came; `head` on its sentence vectors; `weights` float64 [3]."""
        super().__init__()
        self.ngrams, self.tuned, self.last, self.head = ngrams, tuned, last, head
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def forward(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, labels] and sentence vectors [B, width] of `features` int64 [B, m] and tokens [B, n]."""
        states = self.tuned.lower(input_ids, attention_mask)
        tuned, pooled = self.tuned(states, attention_mask)
        came = self.head(vectors_of(self.last, states, attention_mask))
        parts = torch.stack([self.ngrams(features), tuned, came])
        return (self.weights[:, None, None] * parts).sum(dim=0), pooled


def train_joint(
    candidate: StudentCandidate,
    labels: Sequence[str],
    texts: Sequence[LabelledText],
    select: Sequence[LabelledText],
    *,
    on_progress: Callable[[Progress], None],
    checkpoint_dir: Path,
    seed: int,
    threads: int = 1,
) -> TrainedStudent:
    """Train the parts on `texts` and weigh them on `select`; arguments and errors are those of `training.train`."""
    parts = []
    for architecture in ("hashed_ngrams", "cut_encoder"):
        folder = checkpoint_dir / architecture
        folder.mkdir(exist_ok=True)
        part = train(
            _part(candidate, architecture),
            labels,
            texts,
            select,
            on_progress=on_progress,
            checkpoint_dir=folder,
            seed=seed,
            threads=threads,
        )
        parts.append(part)
    ngrams, tuned = parts
    assert isinstance(ngrams.module, HashedNgrams)
    assert isinstance(tuned.module, CutEncoder)
    choosing, _ = hold_back(select)
    answers = hard_targets(choosing, tuned.labels)
    with torch_set_up(threads):
        last, head, came = _as_it_came(candidate, tuned, texts, choosing)
        said = [predict(part.module, _ids(part, choosing), part is tuned) for part in parts]
    logits = np.stack([*said, came])
    weights = weigh(logits, answers)
    temperature, _ = calibrate(np.tensordot(weights, logits, axes=1).astype(np.float32), answers)
    spec = replace(tuned.spec, architecture="joint", inputs="joint", temperature=temperature)
    module = Joint(ngrams.module, tuned.module, last, head, weights).eval()
    return replace(tuned, candidate=candidate, module=module, spec=spec, temperature=temperature)


def _part(candidate: StudentCandidate, architecture: str) -> StudentCandidate:
    if architecture == "hashed_ngrams":
        changes: dict[str, object] = {"epochs": NGRAM_EPOCHS, "batch_size": 64, "learning_rate": None}
        changes |= {"quantization_aware_epochs": 0}  # its head is served as it is
    else:
        # Whole, because it shares its layers with the one that stays as it came.
        changes = {"learning_rate": candidate.learning_rate or ENCODER_RATE, "width": 1.0}
    return candidate.model_copy(update={"architecture": architecture, **changes})


def _as_it_came(
    candidate: StudentCandidate, tuned: TrainedStudent, texts: Sequence[LabelledText], choosing: Sequence[LabelledText]
) -> tuple[nn.Module, nn.Linear, NDArray[np.float32]]:
    """The encoder's last kept layer, a head fitted on its vectors of `texts`, and its logits of `choosing`."""
    encoder = CutEncoder(candidate.layers, len(tuned.labels)).eval()
    last: nn.Module = encoder.transformer.encoder.layer[-1]
    last.requires_grad_(False)
    vectors = [_vectors(encoder, last, _ids(tuned, part)) for part in (texts, choosing)]
    held_out = np.arange(len(texts)) % HELD_OUT == 0
    fitted = fit_head(vectors[0], hard_targets(texts, tuned.labels), len(tuned.labels), held_out)
    head = nn.Linear(vectors[0].shape[1], len(tuned.labels)).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(fitted.weights.T))
    head.bias.copy_(torch.from_numpy(fitted.bias))
    return last, head, np.asarray(vectors[1] @ fitted.weights + fitted.bias, dtype=np.float32)


def _vectors(encoder: CutEncoder, last: nn.Module, ids: Sequence[Ids]) -> NDArray[np.float32]:
    """Sentence vectors float32 [n, width] of texts given as token ids."""
    found = np.empty((len(ids), WIDTH), dtype=np.float32)
    order = np.argsort([len(text) for text in ids], kind="stable")
    with torch.no_grad():
        for start in range(0, len(ids), 64):
            places = order[start : start + 64]
            tokens, mask = inputs_of([ids[i] for i in places], tokens=True)
            found[places] = vectors_of(last, encoder.lower(tokens, mask), mask).numpy()
    return found


def _ids(part: TrainedStudent, texts: Sequence[LabelledText]) -> list[Ids]:
    featuriser = Featuriser(part.spec, part.tokenizer)
    return [featuriser.ids(prepare(text.text)) for text in texts]


def weigh(logits: NDArray[np.float32], answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights in [0, 10], float64 [parts], with the smallest loss on `answers` [n]; `logits` [parts, n, labels].

    >>> answers = np.array([0, 1, 0, 1, 0, 1])
    >>> right = np.eye(2, dtype=np.float32)[answers]
    >>> right[0] = [0.4, 0.6]  # but for one
    >>> weights = weigh(np.stack([right, 1.0 - right]), answers)
    >>> bool(weights[0] > 1.0), round(float(weights[1]), 3)
    (True, 0.0)
    """
    from scipy.optimize import minimize

    table, at = logits.astype(np.float64), np.arange(len(answers))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total = np.tensordot(weights, table, axes=1)
        total -= total.max(axis=1, keepdims=True)
        shares = np.exp(total)
        shares /= shares.sum(axis=1, keepdims=True)
        value = -np.log(np.maximum(shares[at, answers], 1e-300)).mean()
        shares[at, answers] -= 1.0
        return float(value), np.einsum("pnl,nl->p", table, shares) / len(answers)

    found = minimize(loss, np.full(len(table), 0.5), jac=True, method="L-BFGS-B", bounds=[(0.0, 10.0)] * len(table))
    return np.asarray(found.x, dtype=np.float64)


def vectors_of(layer: nn.Module, states: Tensor, attention_mask: Tensor) -> Tensor:
    """Sentence vectors of length 1, float32 [B, width], of what `layer` makes of `states` [B, n, width].

    >>> class Same(nn.Module):
    ...     def forward(self, states, bias):
    ...         return states
    >>> states = torch.tensor([[[6.0, 0.0], [0.0, 8.0], [9.0, 9.0]]])
    >>> vectors_of(Same(), states, torch.tensor([[1, 1, 0]])).tolist()  # the mean of the two real ones is [3, 4]
    [[0.6000000238418579, 0.800000011920929]]
    """
    out: Tensor = layer(states, padding_bias(attention_mask))
    weights = attention_mask.unsqueeze(-1).to(out.dtype)
    mean = (out * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
    return nn.functional.normalize(mean, dim=-1)
