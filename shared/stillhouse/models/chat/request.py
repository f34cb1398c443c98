"""A chat completion request, in OpenAI's words, and how it travels in an event.

What a task is asked is one text most of the time: one message of a user. Then that text is the event's input. Where
there is more (other messages, tools, a response format, sampling), the input is the request's canonical JSON, and the
event says so (`input_type`): a user's text is never taken for a request, whatever it looks like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

InputType = Literal["text", "chat", "rerank"]
MOST_MESSAGES = 2000


class _Part(BaseModel):
    """Unknown keys are refused: what is not understood must not be dropped in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """The one kind of content part that is taken."""

    type: Literal["text"]
    text: str


class FunctionCall(_Part):
    """A tool's name and its arguments, JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(_Part):
    """A call that an assistant asked for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Part):
    """One message. An assistant's has content, tool calls or both; a tool's says which call it answers."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All text of its content."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())

    @model_validator(mode="after")
    def _fits_its_role(self) -> Message:
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role tool needs tool_call_id")
        if self.role != "assistant" and self.tool_calls is not None:
            raise ValueError(f"a message of role {self.role} has no tool_calls")
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a message of role {self.role} needs content")
        return self


class ChatRequest(_Part):
    """Everything about a completion that changes its answer."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MOST_MESSAGES)]
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: str | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, JsonValue] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: str | None = None

    @classmethod
    def of(cls, input_type: InputType, text: str) -> ChatRequest:
        """What an event's input asks. ValueError in one sentence where it is no request."""
        if input_type == "text":
            return cls(messages=(Message(role="user", content=text),))
        if input_type == "rerank":
            raise ValueError("the input is a request to rank documents, and no chat completion request")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"the input is no chat completion request: {first_sentence(error)}") from None

    def as_input(self) -> tuple[InputType, str]:
        """How it travels: the text alone where it is one message of a user and nothing else."""
        said = self.model_dump(mode="json", exclude_none=True)
        [*others, last] = self.messages
        alone = not others and last.role == "user" and last.name is None and isinstance(last.content, str)
        if alone and last.text and said.keys() == {"messages"}:
            return "text", last.text
        # Not sorted: models write the properties of a schema in its order.
        return "chat", json.dumps(said, ensure_ascii=False, separators=(",", ":"))

    def with_texts(self, change: Callable[[str], str]) -> ChatRequest:
        """The same request with every text of its messages, and every argument of a call, changed."""

        def part_of(part: TextPart) -> TextPart:
            return part.model_copy(update={"text": change(part.text)})

        def call_of(call: ToolCall) -> ToolCall:
            arguments = change(call.function.arguments)
            return call.model_copy(update={"function": call.function.model_copy(update={"arguments": arguments})})

        def message_of(message: Message) -> Message:
            content: str | list[TextPart] | None = message.content
            if content is not None:
                content = change(content) if isinstance(content, str) else [part_of(part) for part in content]
            calls = None if message.tool_calls is None else [call_of(call) for call in message.tool_calls]
            return message.model_copy(update={"content": content, "tool_calls": calls})

        return self.model_copy(update={"messages": tuple(message_of(message) for message in self.messages)})

    def with_examples(self, examples: Sequence[tuple[str, str]]) -> ChatRequest:
        """The same request with questions and their answers before it, behind what the system says."""
        others = (i for i, message in enumerate(self.messages) if message.role not in ("system", "developer"))
        systems = next(others, len(self.messages))
        shown = (
            message
            for asked, said in examples
            for message in (Message(role="user", content=asked), Message(role="assistant", content=said))
        )
        return self.model_copy(update={"messages": (*self.messages[:systems], *shown, *self.messages[systems:])})

    def with_instruction(self, instruction: str) -> ChatRequest:
        """The same request with a system's message before all others; empty: the same request."""
        if not instruction:
            return self
        return self.model_copy(update={"messages": (Message(role="system", content=instruction), *self.messages)})

    @property
    def question(self) -> str:
        """The text of the last user's message; empty where there is none."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    def upstream(self, model: str) -> dict[str, Any]:
        """The body that asks an OpenAI-compatible server the same."""
        return {"model": model, **self.model_dump(mode="json", exclude_none=True)}


def first_sentence(error: ValidationError) -> str:
    """Where and what the first mistake is."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "list[", "str")))
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
