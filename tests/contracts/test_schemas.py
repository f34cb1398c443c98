"""What is committed is what the code says, and it only ever grows by optional fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stillhouse.bus.asyncapi import DOCUMENT, SCHEMAS, document, schema
from stillhouse.events import CATALOGUE

TOPICS = [topic for topic in CATALOGUE if topic.event is not None]


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why readers or writers of the old schema could not live with the new one."""
    found = []
    for name, definition in [("", old), *old.get("$defs", {}).items()]:
        now = new if name == "" else new.get("$defs", {}).get(name, {})
        for field, shape in definition.get("properties", {}).items():
            if field not in now.get("properties", {}):
                found.append(f"{name}.{field} is gone")
            elif {k: v for k, v in shape.items() if k != "description"} != {
                k: v for k, v in now["properties"][field].items() if k != "description"
            }:
                found.append(f"{name}.{field} changed")
        found += [
            f"{name}.{f} is required now" for f in set(now.get("required", [])) - set(definition.get("required", []))
        ]
    return found


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_events_change_only_by_optional_fields(topic) -> None:
    committed = json.loads((SCHEMAS / f"{topic.name}.v{topic.event.VERSION}.json").read_text())
    assert breaks(committed, schema(topic.event)) == []


def test_what_is_committed_is_current() -> None:
    assert json.loads(DOCUMENT.read_text()) == document(), "run `make schemas` and commit what it writes"
    names = {f"{topic.name}.v{topic.event.VERSION}.json" for topic in TOPICS}
    assert {path.name for path in SCHEMAS.iterdir()} == names


def test_the_check_sees_what_breaks() -> None:
    old = {"properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert breaks(old, {"properties": {}, "required": []}) == [".a is gone"]
    assert breaks(old, {"properties": {"a": {"type": "integer"}}, "required": ["a"]}) == [".a changed"]
    grown = {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a", "b"]}
    assert breaks(old, grown) == [".b is required now"]
    assert breaks(old, grown | {"required": ["a"]}) == []


def test_every_reference_resolves_within_its_schema() -> None:
    for channel in document()["channels"].values():
        for message in channel["messages"].values():
            text = json.dumps(message["payload"]["schema"])
            for name in (part.split('"')[0] for part in text.split("#/$defs/")[1:]):
                assert name in message["payload"]["schema"]["$defs"]
