"""A teacher behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import os

from stillhouse.models.chat.completion import Completion, OnText
from stillhouse.models.chat.posting import Posting, Price
from stillhouse.models.chat.replies import read_stream, read_whole
from stillhouse.models.chat.request import ChatRequest


class OpenAITeacher:
    """Asks one model of one endpoint. The key is read from the environment at the first call, and never shown."""

    def __init__(self, base_url: str, model: str, api_key_env: str, price: Price) -> None:
        """`price` gives the USD of a call from its tokens; the endpoint is asked for nothing else than completions."""
        url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._key_env = api_key_env
        self._posting = Posting(url, model, self._headers, (read_whole, read_stream), price)

    @property
    def version(self) -> str:
        """The model's name, as the endpoint knows it."""
        return self._model

    async def complete(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """The endpoint's first choice. Raises `ModelError`."""
        asked = request.upstream(self._model)
        if on_text is not None:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return await self._posting.complete(asked, on_text)

    async def close(self) -> None:
        """Close its connections."""
        await self._posting.close()

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self._key_env)
        return {"Authorization": f"Bearer {key}"} if key else {}
