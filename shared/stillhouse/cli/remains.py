"""What of an erasure is outside of the store: answers that Redis keeps for a day, and records that the log keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from stillhouse.cli.reading import RawRecord, each_record
from stillhouse.events import (
    BY_NAME,
    SERVICES,
    ExampleReviewed,
    InferenceAudited,
    InferenceCompleted,
    InferenceRequested,
)
from stillhouse.store.redaction import input_hash, stored_group

if TYPE_CHECKING:
    from stillhouse.settings import Kafka, Settings

WITH_TEXT: Final = (
    InferenceRequested.TYPE,
    InferenceCompleted.TYPE,
    InferenceAudited.TYPE,
    ExampleReviewed.TYPE,  # a reviewer's note
    *(f"dlq.{service}" for service in SERVICES),
)
SCAN: Final = 500  # keys at once


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be erased: texts by hash, and a tenant's requests and groups (as they are stored)."""

    tenant: str
    input_sha256s: frozenset[str]
    request_ids: frozenset[str]
    groups: frozenset[str]

    def is_in(self, value: Any) -> bool:
        """Whether an event's JSON is about it."""
        if not isinstance(value, dict):
            return False
        if value.get("tenant", "default") == self.tenant:
            if (value.get("request_id") or value.get("id")) in self.request_ids:
                return True
            group = value.get("group")
            if isinstance(group, str) and self.groups and stored_group(group) in self.groups:
                return True
        text = value.get("input")
        return bool(self.input_sha256s) and isinstance(text, str) and input_hash(text) in self.input_sha256s


@dataclass(frozen=True, slots=True)
class Remains:
    """Records of a topic that hold something of it. `until`: when the log forgets the last; None: not by itself."""

    topic: str
    records: int
    until: datetime | None


async def find_remains(kafka: Kafka, wanted: Wanted) -> list[Remains]:
    """Look through every record that may hold text. A dead letter that is no JSON counts where it names a request."""
    last: dict[str, tuple[int, int]] = {}
    async for record in each_record(kafka, WITH_TEXT):
        if _holds(record, wanted):
            count, newest = last.get(record.topic, (0, 0))
            last[record.topic] = (count + 1, max(newest, record.time_ms))
    return [Remains(topic, count, _until(kafka, topic, newest)) for topic, (count, newest) in sorted(last.items())]


async def forget_answers(settings: Settings, wanted: Wanted) -> int:
    """Take kept answers out of Redis and out of its file; gives how many. Raises `redis.RedisError`, `OSError`."""
    from stillhouse.bus.redis import connect_redis

    redis = connect_redis(settings.redis)
    try:
        keys = [f"stillhouse:done:{request_id}".encode() for request_id in sorted(wanted.request_ids)]
        if wanted.input_sha256s or wanted.groups:
            batch: list[bytes] = []
            async for key in redis.scan_iter("stillhouse:done:*", count=SCAN):
                batch.append(key)
                if len(batch) == SCAN:
                    keys += _those(batch, await redis.mget(batch), wanted)
                    batch = []
            keys += _those(batch, await redis.mget(batch), wanted) if batch else []
        gone = int(await redis.delete(*keys)) if keys else 0
        if gone:
            await redis.bgrewriteaof()  # the append-only file still holds what was set
        return gone
    finally:
        await redis.aclose()


def _those(keys: Iterable[bytes], values: Iterable[bytes | str | None], wanted: Wanted) -> list[bytes]:
    return [key for key, value in zip(keys, values, strict=True) if value is not None and wanted.is_in(_json(value))]


def _holds(record: RawRecord, wanted: Wanted) -> bool:
    value = record.value or b""
    read = _json(value)
    if read is None and record.topic.startswith("dlq."):
        return any(request_id.encode() in value for request_id in wanted.request_ids)
    return wanted.is_in(read)


def _json(value: bytes | str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _until(kafka: Kafka, topic: str, newest_ms: int) -> datetime | None:
    if kafka.embedded:  # it applies no retention, and forgets everything when it stops
        return None
    return datetime.fromtimestamp((newest_ms + BY_NAME[topic].retention_ms) / 1000, UTC)
