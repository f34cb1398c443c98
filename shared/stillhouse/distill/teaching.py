"""A candidate's recipe at work in the trainer: the teacher's side of every text, and what the student says of a batch.

The task's teacher gives probabilities. What terms on relations and features need beside them comes from the sentence
encoder as it came: vectors of texts, hidden states and attention of its layers.

Its states are the outputs of whole layers, after their LayerNorm, float32, padding cut off. They never change, so each
text is read once and 4 bytes x width a token are kept of each layer that a term names (three times that of MiniLM's
queries, keys and values), with 4 bytes x heads x tokens^2 of each attention map. What would take more than
`MOST_BYTES` in all is not kept; texts are then read anew in each batch.
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
from stillhouse.distill.features.layer_pairs import paired
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import PARTS, Recipe
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, StudentSpec, prepare
from stillhouse.models.port import ModelError
from stillhouse.tasks.distillation import (
    AnyTerm,
    Contrastive,
    Feature,
    HiddenStates,
    Relational,
    SelfAttention,
    SimilarityPreserving,
)
from stillhouse.tasks.feature_terms import ENCODER_LAYER, ENCODER_LAYERS

LAYER = ENCODER_LAYER
TEACHER = tuple(f"{LAYER}.{place}" for place in range(ENCODER_LAYERS))
MOST_BYTES = 1 << 30
EXAMPLES = 64  # texts that layers are searched by


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
        """`soft` [N, L] and `hard` int64 [N] of the N `texts`, `weights` [N] or None; `example`: the inputs of the
        first texts, two or more where there are; layers are searched by what both sides say of them.

        `encoder`: what it says of the same texts, where that is known already.
        Raises `ModelError` as `Recipe` does, or where a path names no module.
        """
        self.module, self.soft, self.hard, self.weights = module, soft, hard, weights
        self.terms = tuple(pair for term in terms for pair in self._pairs(term, texts, example, encoder))
        self.encoder = None
        if any(of_encoder(term) for term in self.terms):
            places = range(len(texts))
            self.encoder = encoder.among(places, self.terms) if encoder else EncoderSide(self.terms, texts)
        with torch.no_grad():
            first = torch.arange(len(example[0]))
            self.recipe = Recipe(
                self.terms, self._student(example, self.terms), self._teacher(first), labels=labels, texts=len(texts)
            )

    def loss(self, places: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """The loss of the texts at `places` int64 [B], whose `inputs` the module takes."""
        weights = None if self.weights is None else self.weights[places]
        student, teacher = self._student(inputs, self.terms), self._teacher(places)
        found: Tensor = self.recipe(student, teacher, self.hard[places], weights)
        return found

    def _pairs(
        self, term: AnyTerm, texts: Sequence[str], example: tuple[Tensor, ...], encoder: EncoderSide | None
    ) -> Sequence[AnyTerm]:
        """`term`, for each pair of layers of its map; the last of both where it names none."""
        if not isinstance(term, Feature) or not isinstance(self.module, CutEncoder):
            return [term]
        layers = [f"{LAYER}.{place}" for place in range(len(self.module.transformer.encoder.layer))]
        if term.layers is None:
            last: dict[str, Any] = {"student": layers[-1], "teacher": TEACHER[-1]}
            return [term.model_copy(update={of: path for of, path in last.items() if getattr(term, of) is None})]
        learn, ours, theirs = len(layers) - self.module.below, None, None
        if term.layers == "searched":
            with torch.no_grad():
                ours = self._student(example, [HiddenStates(kind="hidden_mse", student=one) for one in layers[-learn:]])
            every = [HiddenStates(kind="hidden_mse", teacher=path) for path in TEACHER]
            places = range(len(example[0]))
            side = encoder.among(places, every) if encoder else EncoderSide(every, [texts[place] for place in places])
            theirs = side.outputs(torch.tensor(places), torch.zeros(len(places), 1))
        return paired(term, layers, TEACHER, learn=learn, ours=ours, theirs=theirs)

    def _student(self, inputs: tuple[Tensor, ...], terms: Sequence[AnyTerm]) -> Outputs:
        outputs, attention = paths_of(terms, "student")
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
            self.encoder = CutEncoder(ENCODER_LAYERS, 1).eval()
        self.paths, self.attention = paths_of(terms, "teacher")
        captured, vectors, _ = self._read([0])  # for the widths, which may differ from path to path
        width = sum(states.shape[-1] for states in captured.outputs.values())
        heads = sum(maps.shape[1] for maps in captured.attention.values())
        size = 4 * sum(vectors.shape[-1] + width * len(ids) + heads * len(ids) ** 2 for ids in self.ids)
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
        """What is known of the texts at `places`, as far as `terms` need it, of what this one's terms needed.

        Raises `ModelError` where `terms` need more than that.
        """
        some = copy.copy(self)
        some.paths, some.attention = paths_of(terms, "teacher")
        known = next(iter(self.kept.values()), None)
        lacking = {*some.paths, *some.attention} - ({*known[1], *known[2]} if known else {*some.paths, *some.attention})
        if lacking:
            raise ModelError(f"{min(lacking)!r} of the encoder is needed, which was not read with the others.")
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


def of_encoder(term: AnyTerm) -> bool:
    """Whether a term needs what the sentence encoder says of a text."""
    return isinstance(term, Feature | Relational | SimilarityPreserving | Contrastive)


def _mask(ids: Sequence[Tensor]) -> Tensor:
    return pad_sequence([torch.ones(len(one), dtype=torch.int64) for one in ids], batch_first=True)


def _padded_maps(maps: Sequence[Tensor]) -> Tensor:
    """Attention maps, each [heads, n, n], as [B, heads, longest, longest]."""
    longest = max(one.shape[-1] for one in maps)
    return torch.stack([nn.functional.pad(one, (0, longest - one.shape[-1]) * 2) for one in maps])
