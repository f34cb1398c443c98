"""What a candidate wants of an epoch beside its loss: which texts, how much of each, at which temperature and alpha.

Every draw follows from the run's seed and the epoch, so a run that was stopped goes on to the same student.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.distill.augmentation.token_dropout import drop_tokens
from stillhouse.distill.curriculum import Curriculum, by_teacher_confidence
from stillhouse.distill.schedules import Schedule
from stillhouse.tasks.students import StudentCandidate


class Pacing:
    """The pace of one run: `candidate`'s curriculum, token dropout, and schedules of temperature and alpha."""

    def __init__(
        self,
        candidate: StudentCandidate,
        soft: NDArray[np.float32],
        losses: Callable[[], NDArray[np.float64]] | None = None,
    ) -> None:
        """`soft` [n, labels]: the teacher's probabilities of the texts that teach.

        `losses()` gives another model's loss on each of them, float64 [n]; it is asked for a curriculum by loss alone.
        ValueError where it is missing then.
        """
        self._share = candidate.token_dropout
        self._ends = candidate.architecture == "cut_encoder"  # [CLS] and [SEP]; others read nothing but the text
        self._curriculum: Curriculum | None = None
        if candidate.curriculum == "confidence":
            self._curriculum = Curriculum.of(by_teacher_confidence(soft))
        elif candidate.curriculum == "loss":
            if losses is None:
                raise ValueError("a curriculum by loss needs another model's losses; give `losses`")
            self._curriculum = Curriculum.of(losses())
        self._epochs = candidate.epochs
        ends = (candidate.temperature_end, candidate.alpha_end)
        self._temperature, self._alpha = (
            Schedule(start, start if end is None else end, candidate.schedule)
            for start, end in zip((candidate.temperature, candidate.alpha), ends, strict=True)
        )

    def taught(self, epoch: int) -> NDArray[np.int64] | None:
        """Places of the texts that teach in `epoch` (from 0), repeated to fill it; None: each once."""
        if self._curriculum is None:
            return None
        return np.concatenate(self._curriculum.batches(epoch / self._epochs, len(self._curriculum.ranks), epoch))

    def thinned(self, texts: Sequence[NDArray[Any]], seed: int) -> Sequence[NDArray[Any]]:
        """`texts` as one epoch shows them, each with some of it left out: hashed features, or tokens.

        Of a cut encoder's texts [CLS] and [SEP], the first and the last, always stay. Where its frozen layers were
        asked once for all epochs, `texts` are their states: those of the left out tokens are missing for the layers
        that learn, but the other states come from the whole text. No text has padding yet.
        """
        if not self._share:
            return texts
        random = np.random.default_rng([seed, 1])
        return [drop_tokens(text, self._share, random, ends=self._ends) for text in texts]

    def temperature(self, done: float) -> float:
        """T after the share `done` of training."""
        return self._temperature.at(done)

    def alpha(self, done: float) -> float:
        """The weight of hard labels after the share `done` of training."""
        return self._alpha.at(done)


def of_places(places: NDArray[np.int64] | None, batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """`batches` of places among `places` as batches of what these are; as they come for None."""
    for batch in batches:
        yield batch if places is None else torch.from_numpy(places[batch.numpy()])
