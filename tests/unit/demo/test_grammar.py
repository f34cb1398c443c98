"""The sample: distinct, repeatable, and what it says it is."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from stillhouse.demo.grammar import LABELS, domain_of, generate
from stillhouse.demo.phrases import CORES, DOMAINS, ESCALATIONS, UNCLEAR, WEIGHTS
from stillhouse.models.rules import EscalationRules
from stillhouse.store.redaction import input_hash, redact
from stillhouse.tasks import load_task

EXAMPLE = Path(__file__).parents[3] / "deploy/tasks/manga-support.toml"


def some(count: int, seed: int = 1, **options):
    return list(itertools.islice(generate(seed, **options), count))


def test_one_seed_is_one_sequence() -> None:
    assert some(500) == some(500)
    assert some(500) != some(500, seed=2)


def test_twenty_thousand_messages_are_distinct_even_when_redacted_and_normalised() -> None:
    messages = some(20_000)
    hashes = {input_hash(message.text) for message in messages}
    assert len({message.text for message in messages}) == 20_000
    assert len(hashes) > 19_700  # those that differ in an e-mail address or phone number only become one


def test_labels_are_the_example_tasks_and_all_of_them_occur() -> None:
    task = load_task(EXAMPLE)
    assert set(LABELS) == set(task.labels) == set(CORES)
    assert sorted(label for labels in DOMAINS.values() for label in labels) == sorted(LABELS)
    counts = Counter(message.label for message in some(5000))
    assert set(counts) == set(LABELS)
    assert counts["order_status"] > counts["human_agent"]
    assert all(message.group == domain_of(message.label) for message in some(200))


def test_only_wanted_labels_are_made() -> None:
    late = DOMAINS["catalogue"]
    assert {message.label for message in some(1000, labels=late, escalations=0.0)} == set(late)


def test_about_one_percent_trips_a_rule_and_is_meant_for_a_person() -> None:
    rules = EscalationRules(load_task(EXAMPLE).teacher.escalate)
    caught = [message for message in some(10_000) if rules.match(message.text)]
    assert 60 < len(caught) < 150
    assert {message.label for message in caught} == {"human_agent"}
    assert {rules.match(message.text) for message in caught} == set(ESCALATIONS)
    assert not [m for m in some(5000, escalations=0.0) if rules.match(m.text)]


def test_some_messages_carry_personal_data_that_is_redacted() -> None:
    marks = Counter(mark for message in some(3000) for mark in redact(message.text).marks)
    assert marks["email"] > 20
    assert marks["phone"] > 20


def test_every_template_can_be_filled_and_every_unclear_one_means_known_labels() -> None:
    assert all(set(meant) <= set(WEIGHTS) for _, meant in UNCLEAR)
    assert not any("{" in message.text for message in some(5000))
