"""A loss of several terms, as a task file declares them in `[[student.distill]]` or Python code puts them together.

The declarations (`stillhouse.tasks.distillation`) are the terms: the same objects say in a file and in code what is
minimised, the weighted sum of all. What some of them learn beside the student (projections) is the recipe's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stillhouse.distill.features.attention_transfer import attention_transfer_loss
from stillhouse.distill.features.hidden_states import hidden_cosine, hidden_mse
from stillhouse.distill.features.projection import Projection
from stillhouse.distill.features.self_attention import attention_loss, relation_loss
from stillhouse.distill.outputs import Outputs, at_least_float32, mean_of_rows, require_same_shape, shape_of
from stillhouse.distill.relations.contrastive import Contrast
from stillhouse.distill.relations.relational import angle_loss, distance_loss
from stillhouse.distill.relations.similarity_preserving import similarity_loss
from stillhouse.distill.response.correlation import correlation_loss
from stillhouse.distill.response.decoupled import decoupled_loss
from stillhouse.distill.response.hard_labels import hard_label_losses
from stillhouse.distill.response.logit_standardisation import standardised_logit_loss
from stillhouse.distill.response.soft_targets import softened_divergence
from stillhouse.models.port import ModelError
from stillhouse.tasks.distillation import (
    AnyTerm,
    AttentionTransfer,
    Contrastive,
    Correlation,
    Decoupled,
    HardLabels,
    HiddenStates,
    Relational,
    SelfAttention,
    SimilarityPreserving,
    SoftTargets,
    StandardisedLogits,
)

# Of what a teacher left out of its answer, relative to its likeliest label: it leaves out what is under 0.001.
LEFT_OUT = 1e-4
PARTS = {"queries": "query", "keys": "key", "values": "value"}


class Recipe(nn.Module):
    """The weighted sum of `terms`, with the projections that they learn.

    >>> from stillhouse.tasks.distillation import HardLabels, Relational, SoftTargets
    >>> student = Outputs(logits=torch.zeros(4, 3), embedding=torch.randn(4, 8))
    >>> teacher = Outputs(logits=torch.randn(4, 3), embedding=torch.randn(4, 16))
    >>> recipe = Recipe([HardLabels(weight=0.2), SoftTargets(weight=0.8), Relational(angle=0)], student, teacher)
    >>> recipe(student, teacher, torch.tensor([0, 1, 2, 0])).shape
    torch.Size([])
    """

    def __init__(
        self,
        terms: Sequence[AnyTerm],
        student: Outputs,
        teacher: Outputs,
        *,
        labels: Sequence[str] = (),
        texts: int = 1,
    ) -> None:
        """`student` and `teacher` are what they say of any one batch, for their widths; `texts`: how many teach.

        Raises `ModelError` where a term needs what is missing there, or its `class_weight` a label not in `labels`.
        """
        super().__init__()
        if not terms:
            raise ModelError("A recipe needs at least one term.")
        self.terms = tuple(terms)
        self.learnt = nn.ModuleDict()
        self.class_weights: dict[int, Tensor] = {}
        for place, term in enumerate(self.terms):
            match term:
                case HiddenStates():
                    ours, theirs = states_of(term, student, teacher)
                    self.learnt[str(place)] = Projection(ours.shape[-1], theirs.shape[-1])
                case AttentionTransfer():
                    states_of(term, student, teacher)  # what does not fit is refused before anything learns
                case SelfAttention():
                    for part in term.parts:
                        _of_part(term, part, student, teacher)
                case Contrastive():
                    ours, theirs = _embeddings(term, student, teacher)
                    self.learnt[str(place)] = Contrast(
                        ours.shape[-1],
                        theirs.shape[-1],
                        texts=texts,
                        dim=term.dim,
                        queue=term.queue,
                        temperature=term.temperature,
                    )
                case HardLabels() | SoftTargets() if term.class_weight:
                    self.class_weights[place] = _class_weights(term.class_weight, labels)

    def forward(self, student: Outputs, teacher: Outputs, hard: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of a batch, a float32 scalar. `hard` int64 [B]: the teacher's labels.

        The teacher's logits may be log-probabilities, -inf for what it left out. `weight` [B] weighs the texts in terms
        on single texts' answers; relations, features and correlations are of batches as they are. Raises `ModelError`
        where an output that a term needs is missing, or shapes do not fit.
        """
        total = torch.zeros(())
        for place in range(len(self.terms)):
            total = total + self.terms[place].weight * self.loss_of(place, student, teacher, hard, weight)
        return total

    def loss_of(
        self, place: int, student: Outputs, teacher: Outputs, hard: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of the term at `place`, without its weight; arguments as `forward`."""
        term = self.terms[place]
        match term:
            case HardLabels():
                said, _ = _logits(term, student, None)
                return mean_of_rows(self._of_label(place, hard_label_losses(said, hard, term.smoothing), hard), weight)
            case SoftTargets():
                said, wanted = _logits(term, student, teacher)
                require_same_shape("logits", said, wanted, dims=2)
                soft = at_least_float32(wanted).softmax(dim=-1)
                losses = term.temperature**2 * softened_divergence(at_least_float32(said), soft, term.temperature)
                return mean_of_rows(self._of_label(place, losses, hard), weight)
            case StandardisedLogits():
                said, wanted = _logits(term, student, teacher)
                return standardised_logit_loss(said, _floored(wanted), term.temperature, weight)
            case Decoupled():
                said, wanted = _logits(term, student, teacher)
                soft = at_least_float32(wanted).softmax(dim=-1)
                return decoupled_loss(said, soft, hard, term.temperature, term.alpha, term.beta, weight)
            case Correlation():
                said, wanted = _logits(term, student, teacher)
                soft = at_least_float32(wanted).softmax(dim=-1)
                return correlation_loss(said, soft, term.temperature, term.inter, term.intra)
            case Relational():
                ours, theirs = _embeddings(term, student, teacher)
                loss = term.distance * distance_loss(ours, theirs) if term.distance else torch.zeros(())
                return loss + term.angle * angle_loss(ours, theirs) if term.angle else loss
            case SimilarityPreserving():
                return similarity_loss(*_embeddings(term, student, teacher))
            case Contrastive():
                found: Tensor = self.learnt[str(place)](*_embeddings(term, student, teacher), hard)
                return found
            case HiddenStates():
                ours, theirs = states_of(term, student, teacher)
                measure = hidden_mse if term.kind == "hidden_mse" else hidden_cosine
                return measure(self.learnt[str(place)](ours), theirs, student.mask)
            case AttentionTransfer():
                ours, theirs = states_of(term, student, teacher)
                return attention_transfer_loss(ours, theirs, student.mask, term.power)
            case SelfAttention():
                return self._self_attention(term, student, teacher)

    def _self_attention(self, term: SelfAttention, student: Outputs, teacher: Outputs) -> Tensor:
        loss = torch.zeros(())
        for part in term.parts:
            ours, theirs = _of_part(term, part, student, teacher)
            if part == "attention":
                loss = loss + attention_loss(ours, theirs, student.mask)
            else:
                loss = loss + relation_loss(ours, theirs, term.heads, student.mask)
        return loss

    def _of_label(self, place: int, losses: Tensor, hard: Tensor) -> Tensor:
        """The losses of rows [B], each times the class weight of its label."""
        if place not in self.class_weights:
            return losses
        return losses * self.class_weights[place].to(hard.device)[hard]


def states_of(term: HiddenStates | AttentionTransfer, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The hidden states that a term compares. Raises `ModelError` where they were not captured."""
    return _both(term, student.states, teacher.states, "")


def _of_part(term: SelfAttention, part: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The attention maps, or the queries, keys or values, that a term compares."""
    if part == "attention":
        return _both(term, student.attention, teacher.attention, ".attention.self", heads=True)
    return _both(term, student.states, teacher.states, f".attention.self.{PARTS[part]}")


def _both(
    term: HiddenStates | AttentionTransfer | SelfAttention,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    below: str,
    *,
    heads: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `term` compares: states [B, n, width], of any widths, or with `heads` attention maps [B, heads, n, n]."""
    if term.layers is not None:
        raise ModelError(f"The term {term.kind} says layers = {term.layers!r}; `paired` makes terms of it.")
    found: list[Tensor] = []
    for whose, path, known in (("student", term.student, ours), ("teacher", term.teacher, theirs)):
        if path is None:
            raise ModelError(f"The term {term.kind} names no layer of the {whose}; set {whose} to a module's path.")
        if path + below not in known:
            raise ModelError(f"The term {term.kind} needs {path + below!r} of the {whose}, which was not captured.")
        found.append(known[path + below])
    one, other = found
    if (heads and one.shape != other.shape) or (not heads and (one.dim() != 3 or one.shape[:2] != other.shape[:2])):
        same = "texts, heads and tokens" if heads else "texts and tokens"
        raise ModelError(
            f"The term {term.kind} compares {str(term.student) + below!r} of the student, which is {shape_of(one)}, "
            f"with {str(term.teacher) + below!r} of the teacher, which is {shape_of(other)}; {same} must be the same."
        )
    return one, other


def _logits(term: AnyTerm, student: Outputs, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
    if student.logits is None or (teacher is not None and teacher.logits is None):
        raise ModelError(f"The term {term.kind} needs logits, which the {_lacking(student.logits)} does not give.")
    wanted = student.logits if teacher is None or teacher.logits is None else teacher.logits
    return student.logits, wanted


def _embeddings(term: AnyTerm, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    if student.embedding is None or teacher.embedding is None:
        raise ModelError(f"The term {term.kind} needs a vector a text, which the {_lacking(student.embedding)} lacks.")
    return student.embedding, teacher.embedding


def _lacking(of_student: Tensor | None) -> str:
    return "student" if of_student is None else "teacher"


def _floored(logits: Tensor) -> Tensor:
    """Finite logits: what a teacher left out gets `LEFT_OUT` of its likeliest label's probability."""
    floor = logits.amax(dim=-1, keepdim=True) + torch.log(torch.tensor(LEFT_OUT, dtype=logits.dtype))
    return torch.where(logits.isneginf(), floor, logits)


def _class_weights(weights: Mapping[str, float], labels: Sequence[str]) -> Tensor:
    unknown = set(weights) - set(labels)
    if unknown:
        raise ModelError(f"class_weight names {min(unknown)!r}, which is not one of the labels.")
    return torch.tensor([weights.get(label, 1.0) for label in labels])
