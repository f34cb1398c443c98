"""Events to rows: total, repeatable, and without personal data."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.observer.recording import (
    audit_entry,
    audit_row,
    audited_example,
    completed_entry,
    completed_example,
    cost_entry,
    recorded,
    route_row,
    sample_of,
)
from stillhouse.events import Answer, CostIncurred, InferenceAudited, InferenceCompleted, RouteChanged
from stillhouse.models.chat.request import ChatRequest, Message
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.store.redaction import redact
from tests.unit.observer.events import T0, audited, completed, said


@pytest.mark.parametrize(
    ("changes", "sample"),
    [
        ({}, "full"),
        ({"reason": "shadow", "stage": "shadow"}, "full"),
        ({"reason": "pinned", "stage": "live", "purpose": "gate"}, "escalation"),
        ({"reason": "pinned", "purpose": "backfill"}, "full"),
        ({"reason": "criticality"}, "full"),
        ({"reason": None, "purpose": "observe"}, "full"),
        ({"reason": "policy"}, "full"),
        ({"reason": "policy", "stage": "shadow"}, "full"),
        ({"reason": "policy", "stage": "live"}, "escalation"),
        ({"reason": "below_threshold", "stage": "live"}, "escalation"),
        ({"reason": "student_failed", "stage": "live"}, "escalation"),
        ({"reason": "canary_holdout", "stage": "canary"}, "escalation"),
        ({"reason": None}, "escalation"),
    ],
)
def test_which_sample_an_answer_belongs_to(changes, sample) -> None:
    assert sample_of(completed(**changes)) == sample


def test_a_teacher_answer_becomes_an_example_without_personal_data() -> None:
    event = completed(input="mail jo@example.org or +49 170 1234567", group="chat-7", reason="policy", stage="live")
    row = completed_example(event)
    assert row is not None
    assert row.input == "mail <email> or <phone>"
    assert (row.redactions, row.group, row.provenance, row.sample) == ("email,phone", "chat-7", "policy", "escalation")
    other = completed_example(completed(2, input="Mail kim@example.com or +49 170 7654321!"))
    assert other is not None
    assert other.input_sha256 == row.input_sha256
    assert json.loads(row.distribution) == {"a": 0.9}


def test_no_teacher_answer_no_text_or_no_success_is_no_example() -> None:
    assert completed_example(completed(teacher=None)) is None
    assert completed_example(completed(input="")) is None
    failed = completed(status="error", failure={"code": "deadline", "message": "m"})
    assert completed_example(failed) is None


def test_an_audited_request_has_one_example_and_it_is_from_its_audit() -> None:
    assert completed_example(completed(audited=True)) is None
    row, other = audited_example(audited()), audited_example(audited(id="audited-for-s2", student_id="s2"))
    assert row is not None
    assert row == other
    assert row.sample == "audit"
    unaudited = completed_example(completed())
    assert unaudited is not None
    assert unaudited.example_id == row.example_id
    ruled = audited_example(audited(policy=True, student=None))
    assert ruled is not None
    assert (ruled.sample, ruled.provenance) == ("audit", "policy")


def test_an_audited_request_and_its_audit_share_the_bill_and_count_nothing_twice() -> None:
    request = completed_entry(
        completed(audited=True, served_by="student", reason="student", student=said("b", "s1", cpu_ms=1.0))
    )
    audit = audit_entry(audited())
    assert (request.kind, request.teacher_cpu_ms, request.student_cpu_ms) == ("request", 0.0, 1.0)
    assert (audit.kind, audit.teacher_cpu_ms, audit.student_cpu_ms) == ("audit", 3.0, 0.0)
    assert (audit.usd, audit.teacher_usd, audit.cause_id, audit.note) == (0.002, 0.0, "request-1", "s1")
    other = audit_entry(audited(id="audited-for-s2", student_id="s2"))
    assert len({request.entry_id, audit.entry_id, other.entry_id}) == 3


def test_an_escalated_request_pays_for_both_models() -> None:
    event = completed(reason="below_threshold", stage="live", student=said("b", "s1", cpu_ms=1.0), cost_usd=0.0021)
    entry = completed_entry(event)
    assert (entry.teacher_cpu_ms, entry.student_cpu_ms, entry.usd, entry.teacher_usd) == (3.0, 1.0, 0.0021, 0.002)


def test_what_stillhouse_asks_for_itself_spares_no_teacher_call() -> None:
    gate = completed_entry(completed(purpose="gate", reason="pinned"))
    assert (gate.kind, gate.purpose, gate.usd, gate.teacher_usd) == ("gate", "gate", 0.002, 0.0)
    assert completed_entry(completed(purpose="backfill")).kind == "backfill"
    assert completed_entry(completed(purpose="observe")).kind == "request"


def test_a_failed_request_is_in_the_ledger_for_nothing() -> None:
    entry = completed_entry(completed(status="error", failure={"code": "deadline", "message": "m"}, teacher=None))
    assert (entry.reason, entry.usd, entry.teacher_usd, entry.kind) == ("deadline", 0.0, 0.0, "request")


def test_costs_and_routes() -> None:
    cost = CostIncurred(id="c", time=T0, task="intents", cause_id="job", kind="training", usd=0.5, cpu_seconds=9.0)
    entry = cost_entry(cost, None)
    assert (entry.kind, entry.cause_id, entry.usd, entry.cpu_seconds) == ("training", "job", 0.5, 9.0)
    route = RouteChanged(
        id="r", time=T0, task="intents", version=4, stage="teacher", reason="r", changed_by="x", cause_id="c"
    )
    row = route_row(route)
    assert (row.event_id, row.version, row.stage) == ("r", 4, "teacher")
    assert RouteChanged.model_validate_json(row.event) == route


def test_infinity_never_reaches_a_sum() -> None:
    event = completed(cost_usd=float("inf"), latency_ms=float("inf"), teacher=said(distribution={"a": float("nan")}))
    entry, example = completed_entry(event), completed_example(event)
    assert (entry.usd, entry.latency_ms) == (0.0, 0.0)
    assert example is not None
    assert example.distribution == "{}"


# Personal data as people write it, between words.
WORDS = st.text(st.characters(categories=["Ll", "Lu"]), min_size=1, max_size=8)
EMAILS = st.builds(lambda a, b: f"{a}@{b}.example.org", *[st.from_regex(r"[a-z]{2,9}", fullmatch=True)] * 2)
PHONES = st.from_regex(r"\+49 1[5-7]\d \d{7}", fullmatch=True)
CARDS = st.sampled_from(["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009"])
PRIVATE = st.one_of(EMAILS, PHONES, CARDS)
ANSWERS = st.builds(
    Answer,
    output=st.text(max_size=20),
    confidence=st.floats(0, 1),
    distribution=st.dictionaries(st.text(max_size=5), st.floats()),
    model=st.text(max_size=5),
    latency_ms=st.floats(0),
)
NAMES = {"tenant": st.just("default"), "task": st.just("intents"), "time": st.datetimes(timezones=st.just(T0.tzinfo))}


@given(private=PRIVATE, before=WORDS, after=WORDS)
def test_personal_data_is_in_no_row(private, before, after) -> None:
    text = f"{before} {private} {after}"
    answer = said(text, distribution={text: 1.0})
    ended = completed(input=text, output=text, teacher=answer, student=answer, group=text)
    compared = audited(input=text, teacher=answer, student=answer, student_error=text, group=text)
    cost = CostIncurred(task="intents", cause_id="c", kind="gate", usd=0.0, note=text)
    rows: list[Any] = [
        completed_example(ended),
        completed_entry(ended),
        audited_example(compared),
        audit_row(compared),
        audit_entry(compared),
        cost_entry(cost, None),
    ]
    for row in rows:
        assert private not in json.dumps(dataclasses.asdict(row), default=str, ensure_ascii=False)


@given(private=PRIVATE, before=WORDS)
def test_personal_data_in_a_chat_is_in_no_row_and_it_stays_a_chat(private, before) -> None:
    messages = (Message(role="system", content="Be kind."), Message(role="user", content=f"{before} {private}"))
    asked = ChatRequest(messages=messages, seed=4111111111111111)  # as long as a card, and none
    kind, text = asked.as_input()
    rows = (
        completed_example(completed(input=text, input_type=kind)),
        audited_example(audited(input=text, input_type=kind)),
    )
    for row in rows:
        assert row is not None
        assert private not in row.input
        kept = ChatRequest.of(row.input_type, row.input)
        assert (kept.seed, kept.messages[0].text) == (4111111111111111, "Be kind.")
        assert kept.question.startswith(before)
        assert row.redactions
    broken = completed_example(completed(input=f"no chat {private}", input_type="chat"))
    assert broken is not None
    assert private not in broken.input


@given(
    st.builds(
        InferenceCompleted,
        **NAMES,
        input=st.text(max_size=40),
        teacher=st.none() | ANSWERS,
        student=st.none() | ANSWERS,
        cost_usd=st.floats(0),
        teacher_cost_usd=st.floats(0),
        latency_ms=st.floats(0),
        group=st.none() | st.text(max_size=20),
    )
)
def test_every_completed_event_has_its_rows_and_always_the_same(event) -> None:
    again = InferenceCompleted.model_validate(event.model_dump())
    assert completed_entry(event) == completed_entry(again)
    example = completed_example(event)
    assert example == completed_example(again)
    if example is not None:
        assert recorded(example) == recorded(example)
        assert redact(example.input).text == example.input
        json.loads(example.distribution)


@given(
    st.builds(
        InferenceAudited,
        **NAMES,
        input=st.text(max_size=40),
        pi=st.floats(0.01, 1),
        teacher=ANSWERS,
        student=st.none() | ANSWERS,
        overhead_usd=st.floats(0),
    )
)
def test_every_audited_event_has_its_rows_and_always_the_same(event) -> None:
    again = InferenceAudited.model_validate(event.model_dump())
    for rows in (audit_row, audit_entry, audited_example):
        # repr: a threshold that is not a number is not equal to itself
        assert repr(rows(event)) == repr(rows(again))


def test_a_list_to_rank_stays_the_json_of_one_without_personal_data() -> None:
    asked = RerankRequest(query="who is jo@example.org", documents=("call +49 170 1234567", "nothing"))
    row = completed_example(completed(input=asked.as_input(), input_type="rerank"))
    assert row is not None
    assert RerankRequest.of(row.input) == RerankRequest(query="who is <email>", documents=("call <phone>", "nothing"))
    assert (row.redactions, row.input_type) == ("email,phone", "rerank")
