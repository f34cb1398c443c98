"""CloudEvents 1.0 in Kafka binary mode: attributes in headers, the event's JSON as the value."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from stillhouse.events import BY_NAME, MAX_RECORD_BYTES, Event, key_of

Headers = list[tuple[str, bytes]]


class BadRecord(Exception):
    """A record that holds no usable event; the message says what is wrong with it."""


class TooLarge(Exception):
    """An event that no topic takes; the message says how large it is and what is allowed."""


@dataclass(frozen=True, slots=True)
class Record:
    """An event ready to be sent: topic, key, value and headers."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def new_traceparent() -> str:
    """A W3C trace context that begins a trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def encode(event: Event, *, source: str, traceparent: str | None = None) -> Record:
    """The record for `event`. `source` is a path such as `/services/router`. Raises `TooLarge`."""
    value = event.model_dump_json().encode()
    if len(value) > MAX_RECORD_BYTES:
        raise TooLarge(
            f"{event.TYPE} of task {event.task!r} has {len(value):,} bytes; {MAX_RECORD_BYTES:,} are allowed. "
            "Send less text, or a reference to it."
        )
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.id.encode()),
        ("ce_type", event.cloudevent_type().encode()),
        ("ce_source", source.encode()),
        ("ce_time", event.time.isoformat().encode()),
        ("ce_subject", event.subject.encode()),
        ("content-type", b"application/json"),
        ("traceparent", (traceparent or new_traceparent()).encode()),
    ]
    return Record(event.TYPE, key_of(event).encode(), value, headers)


def decode(topic: str, value: bytes | None) -> Event:
    """The event in a record of `topic`. Raises `BadRecord`."""
    declared = BY_NAME.get(topic)
    if declared is None or declared.event is None:
        raise BadRecord(f"topic {topic!r} carries no events")
    if not value:
        raise BadRecord("the record is empty; send the event as JSON")
    if len(value) > MAX_RECORD_BYTES:
        raise BadRecord(f"the record has {len(value):,} bytes; {MAX_RECORD_BYTES:,} are allowed")
    try:
        return declared.event.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the value"
        raise BadRecord(f"{where}: {first['msg']}") from None


def header(headers: Iterable[tuple[str, bytes]], name: str) -> str | None:
    """One header's text, or None."""
    return next((value.decode(errors="replace") for key, value in headers if key == name), None)
