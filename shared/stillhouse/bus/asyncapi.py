"""The AsyncAPI 3.0 document and the JSON Schemas, from the catalogue and the event models.

`python -m stillhouse.bus.asyncapi` writes both into the package, where they are committed: any Kafka client in any
language can be written from them. A contract test compares them with the code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from stillhouse.events import CATALOGUE, MAX_RECORD_BYTES, Event, Topic

FOLDER = Path(__file__).parents[1] / "events"
DOCUMENT = FOLDER / "asyncapi.json"
SCHEMAS = FOLDER / "schemas"


def schema(event: type[Event]) -> dict[str, Any]:
    """The JSON Schema of an event's value."""
    return event.model_json_schema(ref_template="#/$defs/{model}")


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of every topic that carries events."""
    topics = [topic for topic in CATALOGUE if topic.event is not None]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Stillhouse",
            "version": "1",
            "description": (
                "CloudEvents 1.0 in Kafka binary mode: attributes in headers (ce_id, ce_type, ce_source, ce_time, "
                "ce_subject, traceparent), the event's JSON as the value. To ask, write inference.requested with a "
                "unique `id` as the record's key; to hear the answer, read inference.completed where `request_id` is "
                f"that id. A record may have {MAX_RECORD_BYTES} bytes."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in topics},
        "operations": {
            f"{verb}-{service}-{topic.name}": {
                "action": verb,
                "channel": {"$ref": f"#/channels/{topic.name}"},
                "summary": f"{service} {'reads' if verb == 'receive' else 'writes'} {topic.name}",
            }
            for topic in topics
            for verb, services in (("receive", topic.taken_by), ("send", topic.given_by))
            for service in services
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    assert topic.event is not None
    message = {
        "name": topic.event.cloudevent_type(),
        "summary": (topic.event.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": {
                "ce_specversion": {"type": "string", "const": "1.0"},
                "ce_type": {"type": "string", "const": topic.event.cloudevent_type()},
                **{name: {"type": "string"} for name in ("ce_id", "ce_source", "ce_time", "ce_subject", "traceparent")},
            },
        },
        "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": schema(topic.event)},
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}}},
    }
    settings: dict[str, Any] = {"cleanup.policy": [topic.cleanup]}
    if topic.retention_ms >= 0:
        settings["retention.ms"] = topic.retention_ms
    return {
        "address": topic.name,
        "messages": {topic.event.__name__: message},
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": settings}},
    }


def write() -> None:
    """Write document and schemas anew."""
    SCHEMAS.mkdir(exist_ok=True)
    for topic in CATALOGUE:
        if topic.event is not None:
            _replace(SCHEMAS / f"{topic.name}.v{topic.event.VERSION}.json", schema(topic.event))
    _replace(DOCUMENT, document())


def _replace(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


if __name__ == "__main__":
    write()
