"""What goes into a fine-tuning job and what comes out of it, as files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.files import write_json
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError

if TYPE_CHECKING:
    from stillhouse.distill.causal_lm.sft import Tuned

MERGED: Final = "merged"
FIGURES: Final = "tuned.json"


def save(tuned: Tuned, folder: Path) -> dict[str, Any]:
    """Write the model to `folder/merged`, then its figures to `folder/tuned.json`; gives these. Raises `OSError`."""
    merged = folder / MERGED
    shutil.rmtree(merged, ignore_errors=True)
    tuned.model.save_pretrained(str(merged), safe_serialization=True)
    tuned.tokenizer.save_pretrained(str(merged))
    figures: dict[str, Any] = {
        "too_long": tuned.too_long,
        "marked": tuned.marked,
        "trained_tokens": tuned.trained_tokens,
        "answer_tokens": tuned.answer_tokens,
        "packing_share": tuned.packing_share,
        "rows_at_once": tuned.rows_at_once,
        "score_bytes_per_token": tuned.score_bytes_per_token,
    }
    if tuned.kept_layers:
        figures["kept_layers"] = ", ".join(map(str, tuned.kept_layers))
    write_json(folder / FIGURES, figures)
    return figures


def write_texts(path: Path, texts: Sequence[WrittenText]) -> None:
    """Texts as a job reads them. Raises `OSError`."""
    rows = []
    for text in texts:
        kind, asked = text.request.as_input()
        row = {"input_type": kind, "input": asked, "output": text.answer, "weight": text.weight}
        rows.append(json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_texts(path: Path) -> list[WrittenText]:
    """The texts of a job. Raises `ModelError` for a row that is none."""
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            request = ChatRequest.of(row.get("input_type", "text"), row["input"])
            texts.append(WrittenText(request, row["output"], float(row.get("weight", 1.0))))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}:{number}: a row needs `input` and `output`, both text ({error}).") from None
    return texts
