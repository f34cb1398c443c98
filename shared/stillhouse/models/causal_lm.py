"""What serving must know of a student that writes, besides its weights: the `student.json` of its artefact."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from stillhouse.models.confidence import Confidence
from stillhouse.models.features import SPEC_FILE
from stillhouse.models.port import ModelError

ARCHITECTURE: Final = "causal_lm"
Quantization = Literal["none", "w8a8", "w4a16", "fp8", "nvfp4"]


@dataclass(frozen=True, slots=True)
class CausalLmSpec:
    """A checkpoint as it serves. `base` is what it was trained from; `cpu_s_per_token` was measured while it served.

    `max_model_len` tokens of question and answer fit, `max_new_tokens` of them are the answer's at most. Answers are
    held to `response_schema` while they are written, where there is one. `instruction`, as a system's message, and
    `examples`, questions with their answers, stand before every question.
    """

    student_id: str
    base: str
    dtype: str = "float32"
    quantization: Quantization = "none"
    max_model_len: int = 1024
    max_new_tokens: int = 256
    response_schema: dict[str, Any] | None = None
    examples: tuple[tuple[str, str], ...] = ()
    instruction: str = ""
    confidence: Confidence = field(default_factory=Confidence)
    cpu_s_per_token: float = 0.0

    def write(self, folder: Path) -> None:
        """Write `student.json` into `folder` (a staging folder: the rename of the folder makes it atomic)."""
        # Not sorted: a schema's properties are written in its order, and the student learned one.
        text = json.dumps({"architecture": ARCHITECTURE, **asdict(self)}, indent=1, ensure_ascii=False)
        (folder / SPEC_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> CausalLmSpec:
        """Read `student.json` from `folder`. Raises `ModelError` where it is missing or malformed."""
        path = folder / SPEC_FILE
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if raw["architecture"] != ARCHITECTURE or raw["quantization"] not in get_args(Quantization):
                raise ValueError("architecture or quantization is not known")
            schema = raw.get("response_schema")
            return cls(
                student_id=str(raw["student_id"]),
                base=str(raw["base"]),
                dtype=str(raw["dtype"]),
                quantization=raw["quantization"],
                max_model_len=int(raw["max_model_len"]),
                max_new_tokens=int(raw["max_new_tokens"]),
                response_schema=dict(schema) if schema is not None else None,
                examples=tuple((str(asked), str(said)) for asked, said in raw.get("examples") or ()),
                instruction=str(raw.get("instruction") or ""),
                confidence=Confidence.read(raw.get("confidence") or {}),
                cpu_s_per_token=float(raw.get("cpu_s_per_token", 0.0)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path}: not a usable student description ({error!r}); train the student anew.") from None
