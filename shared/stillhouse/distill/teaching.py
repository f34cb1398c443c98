"""A candidate's recipe at work in the trainer: the teacher's side of every text, and what the student says of a batch.

The task's teacher gives probabilities. What terms on relations and features need beside them comes from the sentence
encoder as it came: vectors of texts, hidden states and attention of its layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stillhouse.distill.cut_encoder import MAX_TOKENS, CutEncoder, encoder_source
from stillhouse.distill.features.capture import Captured, capture
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import PARTS, Recipe
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, StudentSpec, prepare
from stillhouse.tasks.distillation import AnyTerm, Contrastive, Feature, Relational, SelfAttention, SimilarityPreserving

LAYERS = 6  # of the encoder
LAYER = "transformer.encoder.layer"
MOST_BYTES = 1 << 30  # of the encoder's states that are kept; longer texts are read anew in each epoch


class Teaching:
    """The recipe of `terms` for a module with a `head`, and texts with the teacher's answers.

    The student's vector of a text is what its head is given.
    """

    def __init__(
        self,
        terms: Sequence[AnyTerm],
        module: nn.Module,
        labels: Sequence[str],
        texts: Sequence[str],
        soft: Tensor,
        hard: Tensor,
        weights: Tensor | None,
        example: tuple[Tensor, ...],
        encoder: EncoderSide | None = None,
    ) -> None:
        """`soft` [N, L] and `hard` int64 [N] of the N `texts`, `weights` [N] or None; `example`: inputs of any batch.

        `encoder`: what it says of the same texts, where that is known already.
        Raises `ModelError` as `Recipe` does, or where a path names no module.
        """
        kept = len(module.transformer.encoder.layer) if isinstance(module, CutEncoder) else 0
        self.terms = tuple(_with_layers(term, kept) for term in terms)
        self.module, self.soft, self.hard, self.weights = module, soft, hard, weights
        self.encoder = None
        if any(of_encoder(term) for term in self.terms):
            places = range(len(texts))
            self.encoder = encoder.among(places, self.terms) if encoder else EncoderSide(self.terms, texts)
        with torch.no_grad():
            first = torch.arange(min(len(texts), 2))
            self.recipe = Recipe(
                self.terms, self._student(example), self._teacher(first), labels=labels, texts=len(texts)
            )

    def loss(self, places: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """The loss of the texts at `places` int64 [B], whose `inputs` the module takes."""
        weights = None if self.weights is None else self.weights[places]
        found: Tensor = self.recipe(self._student(inputs), self._teacher(places), self.hard[places], weights)
        return found

    def _student(self, inputs: tuple[Tensor, ...]) -> Outputs:
        outputs, attention = paths_of(self.terms, "student")
        with capture(self.module, outputs, attention=attention, inputs=["head"]) as captured:
            said = self.module(*inputs)
        logits = said[0] if isinstance(said, tuple) else said
        mask = inputs[1] if len(inputs) > 1 else None
        return Outputs(logits, captured.outputs, captured.attention, captured.inputs["head"], mask)

    def _teacher(self, places: Tensor) -> Outputs:
        logits = self.soft[places].log()
        return Outputs(logits) if self.encoder is None else self.encoder.outputs(places, logits)


class EncoderSide:
    """What the encoder as it came says of `texts`, as far as `terms` need it; kept where it fits."""

    def __init__(self, terms: Sequence[AnyTerm], texts: Sequence[str]) -> None:
        """Reads all texts once. Raises `ModelError` where the encoder is not installed or has no such module."""
        spec = StudentSpec(
            student_id="", architecture="cut_encoder", labels=("",), inputs="tokens", max_length=MAX_TOKENS, buckets=0
        )
        featuriser = Featuriser(spec, encoder_source() / TOKENIZER_FILE)
        self.ids = [torch.from_numpy(featuriser.ids(prepare(text))) for text in texts]
        with torch.random.fork_rng(devices=[]):  # its head, which nobody asks, is drawn at random
            self.encoder = CutEncoder(LAYERS, 1).eval()
        self.paths, self.attention = paths_of(terms, "teacher")
        width, heads = self.encoder.transformer.config.hidden_size, self.encoder.transformer.config.num_attention_heads
        size = 4 * sum(
            len(ids) * width * len(self.paths) + heads * len(ids) ** 2 * len(self.attention) for ids in self.ids
        )
        self.kept: dict[int, tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]] = {}
        if size <= MOST_BYTES:
            order = sorted(range(len(self.ids)), key=lambda place: len(self.ids[place]))
            for start in range(0, len(order), 64):
                self._keep(order[start : start + 64])

    def outputs(self, places: Tensor, logits: Tensor) -> Outputs:
        """Its outputs for the texts at `places` int64 [B], with the teacher's `logits` [B, L] of the same texts."""
        asked = places.tolist()
        if not self.kept:
            captured, vectors, mask = self._read(asked)
            return Outputs(logits, captured.outputs, captured.attention, vectors, mask)
        rows = [self.kept[place] for place in asked]
        mask = _mask([self.ids[place] for place in asked])
        return Outputs(
            logits,
            {path: pad_sequence([row[1][path] for row in rows], batch_first=True) for path in self.paths},
            {path: _padded_maps([row[2][path] for row in rows]) for path in self.attention},
            torch.stack([row[0] for row in rows]),
            mask,
        )

    def among(self, places: Sequence[int], terms: Sequence[AnyTerm]) -> EncoderSide:
        """What is known of the texts at `places`, as far as `terms` need it, of what this one's terms needed."""
        some = copy.copy(self)
        some.paths, some.attention = paths_of(terms, "teacher")
        some.ids = [self.ids[place] for place in places]
        some.kept = {row: self.kept[place] for row, place in enumerate(places) if self.kept}
        return some

    def _keep(self, places: Sequence[int]) -> None:
        captured, vectors, _ = self._read(places)
        for row, place in enumerate(places):
            n = len(self.ids[place])
            self.kept[place] = (
                vectors[row],
                {path: states[row, :n].clone() for path, states in captured.outputs.items()},
                {path: maps[row, :, :n, :n].clone() for path, maps in captured.attention.items()},
            )

    def _read(self, places: Sequence[int]) -> tuple[Captured, Tensor, Tensor]:
        ids = [self.ids[place] for place in places]
        mask = _mask(ids)
        with torch.no_grad(), capture(self.encoder, self.paths, attention=self.attention) as captured:
            _, vectors = self.encoder(pad_sequence(ids, batch_first=True), mask)
        return captured, vectors, mask


def paths_of(terms: Sequence[AnyTerm], whose: str) -> tuple[list[str], list[str]]:
    """The modules whose outputs, and whose attention, the `terms` need of the `student` or of the `teacher`.

    >>> from stillhouse.tasks.distillation import SelfAttention
    >>> paths_of([SelfAttention(teacher="layer.5")], "teacher")
    (['layer.5.attention.self.value'], ['layer.5.attention.self'])
    """
    outputs: dict[str, None] = {}
    attention: dict[str, None] = {}
    for term in terms:
        path = getattr(term, whose, None)
        if path is None:
            continue
        for part in term.parts if isinstance(term, SelfAttention) else ("",):
            if part == "attention":
                attention[f"{path}.attention.self"] = None
            else:
                outputs[f"{path}.attention.self.{PARTS[part]}" if part else path] = None
    return list(outputs), list(attention)


def _with_layers(term: AnyTerm, kept: int) -> AnyTerm:
    """A term on features names the last layer of both sides where it names none."""
    if not isinstance(term, Feature):
        return term
    named: dict[str, Any] = {"student": f"{LAYER}.{kept - 1}", "teacher": f"{LAYER}.{LAYERS - 1}"}
    return term.model_copy(update={whose: path for whose, path in named.items() if getattr(term, whose) is None})


def of_encoder(term: AnyTerm) -> bool:
    """Whether a term needs what the sentence encoder says of a text."""
    return isinstance(term, Feature | Relational | SimilarityPreserving | Contrastive)


def _mask(ids: Sequence[Tensor]) -> Tensor:
    return pad_sequence([torch.ones(len(one), dtype=torch.int64) for one in ids], batch_first=True)


def _padded_maps(maps: Sequence[Tensor]) -> Tensor:
    """Attention maps, each [heads, n, n], as [B, heads, longest, longest]."""
    longest = max(one.shape[-1] for one in maps)
    return torch.stack([nn.functional.pad(one, (0, longest - one.shape[-1]) * 2) for one in maps])
