"""The students that `schemes` teaches, and what they read: n-grams, and an encoder cut to a few layers.

Every seed draws its own texts to learn from and its own start. All schemes of one seed share both, so their differences
are paired. Of the encoder the embeddings and the lowest layer never change; their states are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.calibration import calibrate
from stillhouse.distill.cut_encoder import MAX_TOKENS, CutEncoder, encoder_source, padding_bias
from stillhouse.distill.data import LabelledText, hard_targets, soft_targets
from stillhouse.distill.hashed_ngrams import HashedNgrams
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.schemes.lesson import Lesson
from stillhouse.distill.training import HEAD_RATES, inputs_of
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, StudentSpec, prepare

BUCKETS, DIM = 1 << 17, 64
NGRAM: dict[str, Any] = {"epochs": 12, "rate": 1e-2, "batch_size": 64}
ENCODER: dict[str, Any] = {
    "epochs": 8,
    "rate": 1e-3,
    "rate_of": lambda name: HEAD_RATES["cut_encoder"] if name.startswith("head") else 1.0,
    "batch_size": 32,
}

Rows = Sequence[LabelledText]


class Ngrams(nn.Module):
    """Hashed n-grams, whose bag of vectors can be asked for and answered alone."""

    def __init__(self, seen: Sequence[NDArray[np.int64]], labels: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.student = HashedNgrams(seen, BUCKETS, DIM, labels)

    def bag(self, features: Tensor) -> Tensor:
        """What the head looks at, [B, width]."""
        rows = functional.embedding(features, self.student.places).squeeze(-1)
        size = (rows > 0).sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)
        return self.student.table(rows).sum(dim=1) / size.sqrt()

    def forward(self, features: Tensor) -> Outputs:
        """Logits and the bag."""
        bag = self.bag(features)
        return Outputs(self.student.head(bag), embedding=bag)


class DeepNgrams(nn.Module):
    """The same bag, then residual layers, so that there is depth to learn from and to drop."""

    def __init__(self, seen: Sequence[NDArray[np.int64]], labels: int, layers: int, seed: int) -> None:
        super().__init__()
        self.bag = Ngrams(seen, labels, seed)
        self.layer = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(layers))
        self.head = nn.Linear(DIM, labels)

    def forward(self, features: Tensor) -> Outputs:
        """Logits, the states of each layer as of one token, and the last of them."""
        states, seen = self.bag.bag(features), {}
        for place, layer in enumerate(self.layer):
            states = states + torch.relu(layer(states))
            seen[f"layer.{place}"] = states[:, None]
        return Outputs(self.head(states), states=seen, embedding=states)


class Layers(nn.Module):
    """The encoder's layers above the lowest, and a head; reads the lowest layer's states."""

    def __init__(self, layers: int, labels: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        cut = CutEncoder(layers, labels)
        self.layer = nn.ModuleList(list(cut.transformer.encoder.layer)[1:]).requires_grad_(True)
        self.head = cut.head

    def forward(self, states: Tensor, mask: Tensor) -> Outputs:
        """Logits, the states of each layer, and the sentence vector."""
        seen = {}
        for place, layer in enumerate(self.layer):
            states = layer(states, padding_bias(mask))
            seen[f"layer.{place}"] = states
        weights = mask.unsqueeze(-1).to(states.dtype)
        vector = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return Outputs(self.head(vector), states=seen, embedding=vector, mask=mask)


@dataclass(slots=True)
class Part:
    """Texts as both kinds of students read them; states are computed when they are first asked for."""

    rows: Rows
    features: list[NDArray[np.int64]]
    tokens: list[NDArray[np.int64]]
    _states: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Rows, labels: tuple[str, ...]) -> Part:
        """Read `rows`."""
        tokenizer = encoder_source() / TOKENIZER_FILE
        ngrams = Featuriser(StudentSpec("", "hashed_ngrams", labels, "hashed_ngrams", 1024, BUCKETS), None)
        tokens = Featuriser(StudentSpec("", "cut_encoder", labels, "tokens", MAX_TOKENS, BUCKETS), tokenizer)
        texts = [prepare(row.text) for row in rows]
        return cls(rows, [ngrams.ids(text) for text in texts], [tokens.ids(text) for text in texts])

    def states(self) -> list[NDArray[np.float32]]:
        """The lowest layer's states of each text, [tokens, width]."""
        if not self._states:
            lowest = CutEncoder(2, 2).eval()  # of two layers all below the last
            found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(self.tokens)
            order = np.argsort([len(ids) for ids in self.tokens], kind="stable")
            with torch.no_grad():
                for start in range(0, len(order), 64):
                    places = order[start : start + 64]
                    made = lowest.lower(*inputs_of([self.tokens[i] for i in places], tokens=True)).numpy()
                    for place, row in zip(places, made, strict=True):
                        found[place] = row[: len(self.tokens[place])].copy()
            self._states = found
        return self._states

    def says(self, module: nn.Module, places: Tensor | Sequence[int]) -> Outputs:
        """What either kind of student makes of the texts at `places`."""
        at = [int(place) for place in places]
        said: Outputs
        if isinstance(module, Ngrams | DeepNgrams):
            said = module(*inputs_of([self.features[i] for i in at], tokens=False))
        else:
            states = self.states()
            said = module(*inputs_of([states[i] for i in at], tokens=True))
        return said

    def logits(self, module: nn.Module) -> NDArray[np.float32]:
        """What `module` answers to all texts, [n, labels]."""
        return self._all(module, lambda said: said.logits)

    def vectors(self, module: nn.Module) -> NDArray[np.float32]:
        """What its head looks at, [n, width]."""
        return self._all(module, lambda said: said.embedding)

    def _all(self, module: nn.Module, of: Callable[[Outputs], Tensor | None]) -> NDArray[np.float32]:
        """One of the outputs for all texts; texts of about one length go together."""
        module.eval()
        order = np.argsort([len(ids) for ids in self.tokens], kind="stable")
        with torch.no_grad():
            parts = [of(self.says(module, order[start : start + 64].tolist())) for start in range(0, len(order), 64)]
        found = torch.cat([part for part in parts if part is not None]).numpy()
        in_order = np.empty_like(found)
        in_order[order] = found
        return in_order


@dataclass(frozen=True, slots=True)
class Draw:
    """What one seed draws: texts that teach and texts that choose, and the teacher's answers to the first."""

    seed: int
    labels: tuple[str, ...]
    learn: Part
    select: Part
    soft: Tensor
    hard: Tensor

    @classmethod
    def of(cls, seed: int, labels: tuple[str, ...], learn: Rows, select: Rows) -> Draw:
        """The draw of these rows."""
        soft = torch.from_numpy(soft_targets(learn, labels))
        hard = torch.from_numpy(hard_targets(learn, labels))
        return cls(seed, labels, Part.of(learn, labels), Part.of(select, labels), soft, hard)

    def ngrams(self, seed: int = 0) -> Ngrams:
        """A student of n-grams that knows nothing."""
        return Ngrams(self.learn.features, len(self.labels), 1000 * seed + self.seed)

    def deep(self, layers: int) -> DeepNgrams:
        """A student of n-grams with residual layers."""
        return DeepNgrams(self.learn.features, len(self.labels), layers, self.seed)

    def encoder(self, layers: int) -> Layers:
        """A student of the encoder's lowest `layers`, as they came."""
        return Layers(layers, len(self.labels), self.seed)

    def lesson(self, of: dict[str, Any], **changes: object) -> Lesson:
        """What is to be learnt, as `NGRAM` or `ENCODER` has it."""
        answers = hard_targets(self.select.rows, self.labels)

        def select(module: nn.Module) -> float:
            return calibrate(self.select.logits(module), answers)[1]

        fields: dict[str, object] = {
            "says": self.learn.says,
            "hard": self.hard,
            "soft": self.soft,
            "select": select,
            "seed": self.seed,
            **of,
        }
        return Lesson(**(fields | changes))  # type: ignore[arg-type]
