"""What a student answered when it was measured, and whether a server answers the same before it serves.

A replica can start and be healthy, and still not be the student that was gated: another build of vLLM, kernels of
another machine, a URL that leads to another checkpoint. So a few questions of the measuring travel in the artefact,
those whose answers the student was surest of (the others may hang on the last bit of a sum), and are asked first.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillhouse.models.port import ModelError

RECORDED_FILE: Final = "recorded.json"
MOST: Final = 5
MAY_DIFFER: Final = 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """A body of `/v1/chat/completions` without its model, and the text that it got."""

    asked: dict[str, Any]
    output: str


def write_recorded(folder: Path, recorded: Sequence[Recorded]) -> None:
    """Write the file into an artefact that is being made. Raises `OSError`."""
    rows = [{"asked": one.asked, "output": one.output} for one in recorded[:MOST]]
    (folder / RECORDED_FILE).write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_recorded(folder: Path) -> list[Recorded]:
    """What the artefact holds; nothing where it was made without. Raises `ModelError` where it cannot be read."""
    path = folder / RECORDED_FILE
    try:
        return [Recorded(dict(row["asked"]), str(row["output"])) for row in json.loads(path.read_text("utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: holds no recorded answers ({error!r}); train the student anew.") from None


def compare(base_url: str, student_id: str, recorded: Sequence[Recorded], timeout_s: float) -> None:
    """Ask all of `recorded` at once. Blocking. Raises `ModelError` where the server fails, or differs in more than one.

    `base_url` ends with `/v1`; `timeout_s` is for each question.
    """
    if not recorded:
        return
    url = f"{base_url.rstrip('/')}/chat/completions"
    bodies = [json.dumps({**one.asked, "model": student_id}).encode() for one in recorded]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: _content(*fetch(url, body, timeout_s)), bodies))
    pairs = list(zip(answers, recorded, strict=True))
    differing = [(said, one.output) for said, one in pairs if said != one.output]
    if len(differing) > MAY_DIFFER:
        said, wanted = differing[0]
        raise ModelError(
            f"the server of {student_id} does not answer as the student did when it was measured: {len(differing)} of "
            f"{len(pairs)} recorded answers differ, such as {said[:80]!r} where it was {wanted[:80]!r}; it does not "
            "serve. Check the vLLM and the checkpoint behind it."
        )


def fetch(url: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of a GET, or of a POST of JSON; whatever the status is. Raises `OSError`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=timeout_s) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _content(status: int, said: bytes) -> str:
    if status != 200:
        raise ModelError(
            f"the server refused a recorded question with status {status}: {said[:300].decode(errors='replace')}"
        )
    try:
        content = json.loads(said)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ModelError("the server answered a recorded question with no completion.") from None
    return content if isinstance(content, str) else ""
