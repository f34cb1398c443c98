"""`[[student]]` of a task that reranks: an encoder that reads query and document together, or each by itself."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from stillhouse.tasks.section import Section

RerankObjective = Literal["supervised_mse", "margin_mse", "listwise_kl", "lambda_loss"]

_DEFAULTS: Final[dict[str, dict[str, int]]] = {"cross_encoder": {"max_tokens": 96}, "bi_encoder": {"max_tokens": 64}}


class RerankerStudent(Section):
    """A reranker: one rung of a task that reranks. Its encoder begins as the lowest layers of MiniLM."""

    architecture: Literal["cross_encoder", "bi_encoder"] = Field(
        description="cross_encoder: reads query and document together. bi_encoder: reads each by itself, so vectors of "
        "documents can be kept."
    )
    layers: int = Field(default=6, ge=1, le=6, description="Transformer layers kept.")
    learn_layers: int = Field(default=2, ge=1, le=6, description="The highest of them that learn; the others stay.")
    max_tokens: int = Field(
        default=96, ge=16, le=256, description="Read of a document, with the query where they are read together."
    )
    reads: Literal["passage", "beginning"] = Field(
        default="passage",
        description="Of a document: its first sentence and those that share rare words with the query; or its "
        "beginning, so that a bi-encoder's vectors do not depend on the query and are kept from list to list.",
    )
    objective: RerankObjective = Field(
        default="listwise_kl", description="How it learns from the teacher's scores; see stillhouse.distill.rerankers."
    )
    alpha: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of supervised relevance, where rows have it; 1 - alpha goes to the teacher's scores.",
    )
    temperature: float = Field(default=1.0, gt=0, description="listwise_kl: T.")
    epochs: int = Field(default=3, ge=1, le=100)
    batch_size: int = Field(
        default=4,
        ge=1,
        description="Lists of one optimiser step; each is read by itself, gradients are accumulated.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of training's matrix products; weights and losses are float32."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Training processes (torchrun); each takes its share of a step's lists."
    )
    patience: int = Field(
        default=3, ge=1, description="Epochs without a smaller loss on lists that do not teach, then training stops."
    )
    documents: int = Field(
        default=12, ge=2, le=1000, description="Of one list that teach: the relevant ones and the hardest others."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="None: 1e-4 for layers, ten times for the head."
    )
    quantization: Literal["int8", "none"] = Field(
        default="int8", description="Of matrices in the served graph; undone where it changes the ranking too much."
    )
    seed: int = 0
    variants: Literal[0] = Field(default=0, description="Its remedy is the next rung.")

    @model_validator(mode="before")
    @classmethod
    def _of_the_architecture(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return _DEFAULTS.get(str(fields.get("architecture")), {}) | fields

    @model_validator(mode="after")
    def _learns_what_it_has(self) -> RerankerStudent:
        if self.batch_size < self.processes:
            raise ValueError(
                f"{self.processes} processes share out the lists of a step; set batch_size to {self.processes} or more"
            )
        if self.learn_layers > self.layers:
            raise ValueError(f"learn_layers = {self.learn_layers} is more than the {self.layers} layers that are kept")
        return self
