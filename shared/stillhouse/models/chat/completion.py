"""What a chat model answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from stillhouse.models.chat.request import ChatRequest, FunctionCall, ToolCall

OnText = Callable[[str], None]  # takes the next piece of an answer
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


def finish_of(said: object, *, calls: bool) -> FinishReason:
    """Why an answer ended, by what its model said; what is not known is `stop`."""
    if calls:
        return "tool_calls"
    match said:
        case "length" | "content_filter":
            return said
        case _:
            return "stop"


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: text, tool calls or both. `cost_usd` is the call's price, `log_prob` a token's mean where known.

    `log_probs` are those of the chosen tokens, one for each; `margins` how much more likely each was than the best
    other token, in log-probabilities, at most 30. Both are empty where the model does not say. Of an answer that is
    held to a schema they are those among what the schema allows.
    """

    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    latency_ms: float = 0.0
    log_prob: float | None = None
    log_probs: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    confidence: float | None = None
    cpu_ms: float = 0.0  # of this machine, where it is known

    def as_output(self) -> str:
        """How it travels in an event: the text; where it calls tools, JSON of content and calls."""
        if not self.tool_calls:
            return self.content or ""
        calls = [{"name": call.function.name, "arguments": call.function.arguments} for call in self.tool_calls]
        return json.dumps({"content": self.content, "tool_calls": calls}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def of(cls, output: str, finish_reason: str | None, input_tokens: int = 0, output_tokens: int = 0) -> Completion:
        """What an event's output says; `finish_reason` tells a text from calls of tools."""
        if finish_reason != "tool_calls":
            return cls(output, (), finish_of(finish_reason, calls=False), input_tokens, output_tokens)
        said = json.loads(output)
        calls = tuple(
            ToolCall(id=f"call_{number}", function=FunctionCall(name=one["name"], arguments=one["arguments"]))
            for number, one in enumerate(said["tool_calls"])
        )
        return cls(said["content"], calls, "tool_calls", input_tokens, output_tokens)


@runtime_checkable
class ChatModel(Protocol):
    """A teacher or a student that writes."""

    @property
    def version(self) -> str:
        """Names what answers."""
        ...

    async def complete(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """The answer to one request, and its text in pieces as they come, where somebody wants them.

        Raises `ModelError`; pieces that came before are then all that there is.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
