"""What a worker process and its owner say to each other: frames of 4 length bytes (big-endian) and JSON.

Owner to worker, first the job, then batches of texts:
    {"job": "teacher" | "reranker" | "student" | "fit", ...}    [id, [text, ...]]
Worker to owner:
    {"ready": version}    {"progress": [phase, done, total]}    {"error": sentence}    {"done": folder}
    [id, [[output, confidence, distribution, latency_ms, cpu_ms, cost_usd, input_tokens, policy], ...]]
    [id, sentence]    where the batch failed
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEADER = struct.Struct(">I")


def pack(message: Any) -> bytes:
    """One frame. Floats keep every bit: JSON writes the shortest text that reads back the same."""
    body = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return HEADER.pack(len(body)) + body


def unpack(body: bytes) -> Any:
    """The message of a frame's body."""
    return json.loads(body)
