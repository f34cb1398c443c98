"""`[[student.distill]]`: the terms of a student's loss, each of one kind with a weight; together they are its recipe.

    [[student.distill]]
    kind = "soft_targets"
    weight = 0.8
    temperature = 2.0

    [[student.distill]]
    kind = "rkd"

    [[student.distill]]
    kind = "hidden_mse"
    layers = "uniform"

Without any, a student learns by its `alpha`, `temperature` and `class_alpha`. The methods themselves, their papers and
equations are in `stillhouse.distill`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from stillhouse.tasks.section import Section

LayerMap = Literal["last", "uniform", "searched"]


class Term(Section):
    """What every term has."""

    weight: float = Field(default=1.0, gt=0, description="What the term's loss is multiplied by.")


class HardLabels(Term):
    """Cross-entropy with the teacher's label."""

    kind: Literal["hard_labels"] = "hard_labels"
    smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread over all labels.")
    class_weight: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="What the term is multiplied by for texts of a label; 1 where not named."
    )


class SoftTargets(Term):
    """The teacher's probabilities at a temperature."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(default=2.0, gt=0)
    class_weight: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="What the term is multiplied by for texts of a label; 1 where not named."
    )


class StandardisedLogits(Term):
    """Soft targets of Z-scores of the logits."""

    kind: Literal["standardised_logits"] = "standardised_logits"
    temperature: float = Field(default=2.0, gt=0)


class Decoupled(Term):
    """DKD: the label's probability and the other labels' apart."""

    kind: Literal["dkd"] = "dkd"
    temperature: float = Field(default=4.0, gt=0)
    alpha: float = Field(default=1.0, ge=0, description="Weight of label against not label.")
    beta: float = Field(default=8.0, ge=0, description="Weight of the other labels among themselves.")


class Correlation(Term):
    """DIST: correlations of the probabilities of a text, and of a label."""

    kind: Literal["dist"] = "dist"
    temperature: float = Field(default=1.0, gt=0)
    inter: float = Field(default=1.0, ge=0, description="Weight of the correlations of rows (labels of a text).")
    intra: float = Field(default=1.0, ge=0, description="Weight of the correlations of columns (texts of a label).")


class Relational(Term):
    """RKD: distances and angles between the texts of a batch."""

    kind: Literal["rkd"] = "rkd"
    distance: float = Field(default=25.0, ge=0, description="Weight of distances of pairs.")
    angle: float = Field(default=50.0, ge=0, description="Weight of angles of triples; 0 spares memory of batch^3.")


class SimilarityPreserving(Term):
    """Which texts of a batch are alike."""

    kind: Literal["similarity_preserving"] = "similarity_preserving"


class Contrastive(Term):
    """CRD: which teacher's vector belongs to a text."""

    kind: Literal["crd"] = "crd"
    temperature: float = Field(default=0.07, gt=0)
    dim: int = Field(default=128, ge=2, le=4096, description="Width that both sides' vectors are projected to.")
    queue: int = Field(default=512, ge=0, le=1 << 16, description="Vectors of earlier batches kept as negatives.")


class Feature(Term):
    """What terms on hidden layers have: whose, by module path. None: the last one kept, and the encoder's last.

    With `layers` the term is one for each pair of layers that the map makes, each with the whole weight.
    """

    student: str | None = Field(default=None, description="Path of the student's layer, one that learns.")
    teacher: str | None = Field(default=None, description="Path of the teacher's layer.")
    layers: LayerMap | None = Field(
        default=None,
        description="A pair for each layer that learns, in the place of student and teacher. last: with the teacher's "
        "last ones. uniform: evenly spaced. searched: with what is most alike (CKA) before anything is learnt, which "
        "for layers cut from that teacher are these layers themselves.",
    )

    @model_validator(mode="after")
    def _one_way_to_name_layers(self) -> Feature:
        if self.layers is not None and (self.student is not None or self.teacher is not None):
            raise ValueError(f"layers = {self.layers!r} finds the pairs by itself; remove student and teacher")
        return self


class HiddenStates(Feature):
    """Hidden states: mean squared error or cosine, through a learnt projection."""

    kind: Literal["hidden_mse", "hidden_cosine"]


class AttentionTransfer(Feature):
    """Which tokens the states are large at."""

    kind: Literal["attention_transfer"] = "attention_transfer"
    power: float = Field(default=2.0, ge=1)


class SelfAttention(Feature):
    """MiniLM: attention distributions, and relations of queries, keys and values."""

    kind: Literal["minilm"] = "minilm"
    parts: tuple[Literal["attention", "queries", "keys", "values"], ...] = Field(
        default=("attention", "values"),
        min_length=1,
        description="MiniLM: attention, values. v2: queries, keys, values.",
    )
    heads: int = Field(default=12, ge=1, description="Relation heads of queries, keys and values.")


AnyFeature = HiddenStates | AttentionTransfer | SelfAttention

AnyTerm = Annotated[
    HardLabels
    | SoftTargets
    | StandardisedLogits
    | Decoupled
    | Correlation
    | Relational
    | SimilarityPreserving
    | Contrastive
    | HiddenStates
    | AttentionTransfer
    | SelfAttention,
    Field(discriminator="kind"),
]

KINDS: Final = (
    "hard_labels",
    "soft_targets",
    "standardised_logits",
    "dkd",
    "dist",
    "rkd",
    "similarity_preserving",
    "crd",
    "hidden_mse",
    "hidden_cosine",
    "attention_transfer",
    "minilm",
)
