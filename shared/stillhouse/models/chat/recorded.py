"""A recorded teacher: replays the answers of a JSONL file. It knows nothing else, and says so.

For trying a task out, for tests and for demonstrations on answers that a real model gave before. It is called
`recorded` wherever its answers are shown.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.models.chat.completion import Completion, OnText
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError

CHARS_PER_TOKEN = 4  # as long as a token of English is; what a recording does not say


class RecordedTeacher:
    """Answers with what is in the file for the same question, spaces and case aside; the first row wins."""

    def __init__(self, path: Path, usd_per_call: float) -> None:
        """Reads `path`: rows with `input` and `output`, or with `text` and `teacher`. Raises `ModelError`."""
        self._usd = usd_per_call
        self._answers: dict[str, str] = {}
        digest = hashlib.sha256()
        for number, row in _rows(path):
            asked, said = row.get("input", row.get("text")), row.get("output", row.get("teacher"))
            if not isinstance(asked, str) or not isinstance(said, str):
                raise ModelError(f"{path}:{number}: a recorded answer needs `input` and `output`, both text; add them.")
            digest.update(f"{asked}\\0{said}\\0".encode())
            self._answers.setdefault(_plain(asked), said)
        if not self._answers:
            raise ModelError(f"{path}: holds no recorded answers; give rows with `input` and `output`.")
        self._version = f"recorded-{digest.hexdigest()[:12]}"

    @property
    def version(self) -> str:
        """`recorded-` and a digest of the answers."""
        return self._version

    def __len__(self) -> int:
        return len(self._answers)

    async def complete(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """The recorded answer to the last question, in one piece. Raises `ModelError` where there is none."""
        said = self._answers.get(_plain(request.question))
        if said is None:
            raise ModelError(
                "the recorded teacher has no answer to this question; it replays a file and knows no more."
            )
        asked = sum(len(message.text) for message in request.messages)
        return Completion(
            said,
            input_tokens=-(-asked // CHARS_PER_TOKEN),
            output_tokens=-(-len(said) // CHARS_PER_TOKEN),
            cost_usd=self._usd,
        )

    async def close(self) -> None:
        """Nothing is held."""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ModelError(f"{path}:{number}: not a JSON object; write one object a line.")
                yield number, row
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); give UTF-8 JSON lines.") from None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
