"""The teacher of a task that generates."""

from __future__ import annotations

from stillhouse.models.chat.anthropic import AnthropicTeacher
from stillhouse.models.chat.completion import ChatModel
from stillhouse.models.chat.openai import OpenAITeacher
from stillhouse.models.chat.recorded import RecordedTeacher
from stillhouse.tasks import AnthropicEndpoint, Endpoint, Recording, Task


def chat_teacher(task: Task) -> ChatModel:
    """What answers `task`, which generates. Raises `ModelError` where a recording cannot be read."""
    match task.teacher:
        case Endpoint() as settings:
            return OpenAITeacher(settings.base_url, settings.model, settings.api_key_env, settings.price)
        case AnthropicEndpoint() as settings:
            return AnthropicTeacher(
                settings.base_url, settings.model, settings.api_key_env, settings.price, settings.max_output_tokens
            )
        case Recording() as settings:
            return RecordedTeacher(settings.file, settings.usd_per_call)
        case _:
            raise TypeError(f"the teacher of {task.key} is of kind {task.teacher.kind}; it classifies")
