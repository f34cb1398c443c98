"""The topic catalogue is what the design promises: names, keys, owners, one event type per topic."""

from __future__ import annotations

import re

import pytest

from stillhouse.events import BY_NAME, BY_TYPE, CATALOGUE, InferenceRequested, RouteRequested, follow_id, key_of


def test_names_are_entity_and_participle() -> None:
    for topic in CATALOGUE:
        assert re.fullmatch(r"[a-z]+(\.[a-z-]+)", topic.name), topic.name
    assert len(BY_NAME) == len(CATALOGUE)


@pytest.mark.parametrize("topic", [t for t in CATALOGUE if t.event], ids=lambda t: t.name)
def test_topic_is_named_for_its_event_and_somebody_gives_it(topic) -> None:
    assert topic.name == topic.event.TYPE
    assert topic.given_by
    assert BY_TYPE[f"io.stillhouse.{topic.name}.v1"] is topic.event


def test_control_topics_have_one_partition_so_that_order_holds() -> None:
    for topic in CATALOGUE:
        if topic.key == "<tenant>/<task>" and topic.name != "inference.audited":
            assert topic.partitions == 1, topic.name


def test_keys() -> None:
    assert key_of(InferenceRequested(id="r1", task="t", input="x")) == "r1"
    assert key_of(RouteRequested(task="t", tenant="a", action="unpin", requested_by="me", reason="x")) == "a/t"


def test_ids_that_follow_repeat_and_differ_by_type_and_subject() -> None:
    assert follow_id("a", "x.y", "s") == follow_id("a", "x.y", "s")
    assert len({follow_id("a", "x.y", "s"), follow_id("a", "x.z", "s"), follow_id("a", "x.y", "q")}) == 3
