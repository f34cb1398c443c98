"""How hard each text is for a model that did not learn it: the loss that a curriculum by loss sorts texts by.

Two hashed n-gram students each learn one half of the texts and are asked about the other (cross-fitting; the scoring by
a model of its own follows Hacohen & Weinshall 1904.03626, section 2). Learning texts makes them easy, so a model's loss
on what it learnt would say little. It costs what the cheapest student costs.

Example:
    >>> features = [np.array([1 + i % 2]) for i in range(40)]
    >>> hard = torch.tensor([i % 2 for i in range(40)])
    >>> hard[0] = 1  # against what all others say
    >>> losses = losses_of_halves(features, torch.eye(2)[hard], hard, buckets=4, seed=0)
    >>> int(losses.argmax()), bool(losses[1:].max() < losses[0])
    (0, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stillhouse.distill.curriculum import by_loss
from stillhouse.distill.fitting import fit, mixed, shuffled
from stillhouse.distill.hashed_ngrams import HashedNgrams
from stillhouse.distill.outputs import shape_of
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.models.features import Featuriser, StudentSpec
from stillhouse.models.port import ModelError

BUCKETS: Final = 1 << 17
MAX_FEATURES: Final = 1024
DIM: Final = 64
EPOCHS: Final = 8
RATE: Final = 1e-2
BATCH: Final = 64
TEMPERATURE, ALPHA = 2.0, 0.2


def losses_of_texts(
    texts: Sequence[str], soft: Tensor, hard: Tensor, *, seed: int, threads: int = 1
) -> NDArray[np.float64]:
    """`losses_of_halves` of prepared texts."""
    spec = StudentSpec(
        student_id="",
        architecture="hashed_ngrams",
        labels=("",),
        inputs="hashed_ngrams",
        max_length=MAX_FEATURES,
        max_features=MAX_FEATURES,
        buckets=BUCKETS,
    )
    featuriser = Featuriser(spec, None)
    features = [featuriser.ids(text) for text in texts]
    return losses_of_halves(features, soft, hard, buckets=BUCKETS, seed=seed, threads=threads)


def losses_of_halves(
    features: Sequence[NDArray[np.int64]], soft: Tensor, hard: Tensor, *, buckets: int, seed: int, threads: int = 1
) -> NDArray[np.float64]:
    """The cross-entropy float64 [n] with the labels `hard` int64 [n] of models that learnt the other half of the texts.

    `features`: hashed n-grams of each text, ids in [0, `buckets`), 0 being padding; `soft` float32 [n, labels]: the
    teacher's probabilities. Deterministic. Raises `ModelError` for fewer than 2 texts, or other numbers of rows.
    """
    if len(features) < 2 or soft.dim() != 2 or len(soft) != len(features) or hard.shape != (len(features),):
        raise ModelError(
            f"{len(features)} texts, probabilities {shape_of(soft)} and labels {shape_of(hard)}: a curriculum by loss "
            "takes two texts or more, with a row and a label for each."
        )
    order = np.random.default_rng([seed, 2]).permutation(len(features))
    found = np.empty(len(features))
    halves = (order[::2], order[1::2])
    for half, (learnt, asked) in enumerate((halves, halves[::-1])):
        found[asked] = by_loss(
            _asked(features, soft, hard, learnt, asked, buckets, mixed(seed, half), threads), hard[asked].numpy()
        )
    return found


def _asked(
    features: Sequence[NDArray[np.int64]],
    soft: Tensor,
    hard: Tensor,
    learnt: NDArray[np.int64],
    asked: NDArray[np.int64],
    buckets: int,
    seed: int,
    threads: int,
) -> NDArray[np.float32]:
    """Logits float32 [asked, labels] of a student that learns the texts at the places `learnt`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = HashedNgrams([features[place] for place in learnt], buckets, DIM, soft.shape[1])

    def says(places: NDArray[np.int64]) -> Tensor:
        logits: Tensor = student(
            pad_sequence([torch.from_numpy(features[place]) for place in places], batch_first=True)
        )
        return logits

    def loss_of(batch: Tensor, _: float) -> Tensor:
        places = learnt[batch.numpy()]
        return soft_target_loss(says(places), soft[places], hard[places], TEMPERATURE, ALPHA)

    fit(
        student,
        lambda epoch, drawn: shuffled(len(learnt), BATCH, drawn),
        loss_of,
        epochs=EPOCHS,
        rate=RATE,
        seed=seed,
        weight_decay=0.0,
        threads=threads,
    )
    with torch.no_grad():
        parts = [says(asked[start : start + 256]) for start in range(0, len(asked), 256)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)
