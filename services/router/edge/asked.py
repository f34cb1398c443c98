"""What an HTTP client asks: an OpenAI body, read strictly. What is not understood is refused by name, never dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from stillhouse.models.chat.request import ChatRequest, first_sentence

# They change nothing about the answer, and are for the client's own books.
LABELS: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
# What a client may send as long as it asks for nothing that is not there.
ONLY: Final[Mapping[str, tuple[object, ...]]] = {
    "n": (1, None),
    "store": (False, None),
    "logprobs": (False, None),
    "logit_bias": ({}, None),
    "modalities": (["text"], None),
    "service_tier": ("auto", "default", None),
}


class BadBody(Exception):
    """The body is no request that can be answered; the message says why, `param` where, `code` in OpenAI's words."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class _Around(BaseModel):
    """What is about the HTTP call, not about the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A body that can be answered. `task_key` is `<tenant>/<task>`."""

    task_key: str
    chat: ChatRequest
    stream: bool
    usage: bool  # a stream ends with the usage too


def read_body(body: bytes) -> Asked:
    """What `body` asks. Raises `BadBody`."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise BadBody("the body is not valid JSON; send one JSON object in UTF-8.") from None
    if not isinstance(said, dict):
        raise BadBody("the body is not a JSON object.")
    for name, allowed in ONLY.items():
        if name in said and said[name] not in allowed:
            raise BadBody(f"{name} = {json.dumps(said[name])[:100]} is not supported.", name, "unsupported_value")
    try:
        around = _Around.model_validate(said)
    except ValidationError as error:
        raise _bad(error) from None
    if around.stream_options is not None and not around.stream:
        raise BadBody("stream_options is for stream = true.", "stream_options", "invalid_value")
    left = {*_Around.model_fields, *LABELS, *ONLY}
    try:
        chat = ChatRequest.model_validate({key: value for key, value in said.items() if key not in left})
    except ValidationError as error:
        raise _bad(error) from None
    tenant, _, task = around.model.rpartition("/")
    usage = around.stream_options is not None and around.stream_options.include_usage
    return Asked(f"{tenant or 'default'}/{task}", chat, around.stream, usage)


def _bad(error: ValidationError) -> BadBody:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        return BadBody(f"{param} is not supported.", param, "unsupported_parameter")
    if first["type"] == "missing":
        return BadBody(f"{param} is missing.", param, "missing_required_parameter")
    return BadBody(f"{first_sentence(error)}.", param, "invalid_value")
