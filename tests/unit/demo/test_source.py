"""Plans: what is sent when, from the grammar and from files; and one sentence for bad files."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path

import pytest

from stillhouse.demo.data import DataError, read_messages
from stillhouse.demo.run import SAMPLE_LIMIT_S, Options
from stillhouse.demo.source import LATE_SHARE, plan_data, plan_sample, to_toml, write_task

EXAMPLE = Path(__file__).parents[3] / "deploy/tasks/manga-support.toml"


@pytest.fixture(scope="module")
def sample():
    return plan_sample(0)


def rows(count: int, labels: int = 10, domains: int = 0) -> list[dict[str, str]]:
    found = []
    for number in range(count):
        label = number % labels
        row = {"id": str(number), "text": f"message {number} about {label}", "label": f"label {label}"}
        found.append(row | ({"domain": f"domain {label % domains}"} if domains else {}))
    return found


def write(path: Path, found: list[dict[str, str]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in found)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_the_sample_sends_every_message_once_and_keeps_three_intents_for_later(sample) -> None:
    assert sample.sample
    assert not sample.limited
    texts = [message.text for part in (sample.seed, sample.first, sample.second) for message in part]
    assert len(set(texts)) == len(texts)
    late = {"preorder", "recommendation", "stock"}
    assert {message.label for message in sample.seed} == set(sample.labels)
    assert {message.label for message in sample.first} == set(sample.labels) - late
    share = sum(message.label in late for message in sample.second) / len(sample.second)
    assert abs(share - LATE_SHARE) < 0.02
    assert sample == plan_sample(0)
    assert sample.first != plan_sample(1).first


def test_the_samples_time_is_over_before_its_messages_are(sample) -> None:
    sent = SAMPLE_LIMIT_S * Options(home=Path()).rate
    assert min(len(sample.first), len(sample.second)) >= sent


def test_the_samples_task_is_the_example_task_with_other_sizes(sample, tmp_path) -> None:
    task = write_task(sample, tmp_path, EXAMPLE)
    given = tomllib.loads(EXAMPLE.read_text())
    assert task.name == "manga-support"
    assert list(task.labels) == given["task"]["labels"]
    assert task.teacher.usd_per_call == given["teacher"]["usd_per_call"]
    assert task.teacher.price_source == given["teacher"]["price_source"]
    assert [rule.name for rule in task.teacher.escalate] == ["fraud", "self-harm", "legal"]
    assert [rule.patterns for rule in task.teacher.escalate] == [
        tuple(rule["patterns"]) for rule in given["teacher"]["escalate"]
    ]
    assert [student.architecture for student in task.students] == ["hashed_ngrams", "cut_encoder"]
    assert (task.budget.min_examples, task.audit.pi) == (sample.sizes.min_examples, sample.sizes.pi)
    assert task.gate.max_cases == sample.sizes.max_cases
    assert task.teacher.seed.read_text().count("\n") == len(sample.seed)
    assert not list(tmp_path.glob(".*"))


def test_own_data_with_domains(tmp_path) -> None:
    plan = plan_data(write(tmp_path / "m.jsonl", rows(6000, labels=30, domains=6)), 0)
    assert plan.task == "demo"
    assert len(plan.labels) == 30
    assert {message.label for message in plan.seed} == set(plan.labels)
    assert 1 <= len(plan.late) <= 3
    assert all(group.startswith("domain") for group in plan.late)
    assert not {message.group for message in plan.first} & set(plan.late)
    assert {message.group for message in plan.second} > set(plan.late)
    texts = [message.text for part in (plan.seed, plan.first, plan.second) for message in part]
    assert sorted(texts) == sorted(row["text"] for row in rows(6000, labels=30))
    share = sum(message.group in plan.late for message in plan.second) / len(plan.second)
    assert abs(share - LATE_SHARE) < 0.02
    task = write_task(plan, tmp_path / "tasks", EXAMPLE)
    assert task.labels == plan.labels
    assert "assumed" in task.teacher.price_source
    assert task.teacher.escalate == ()


def test_own_data_without_domains_holds_labels_back(tmp_path) -> None:
    plan = plan_data(write(tmp_path / "m.jsonl.gz", rows(5000)), 3)
    assert 3 <= len(plan.late) <= 4
    assert set(plan.late) < set(plan.labels)


def test_a_folder_is_all_its_files_and_repeated_texts_count_once(tmp_path) -> None:
    write(tmp_path / "train.jsonl.gz", rows(10))
    write(tmp_path / "dev.jsonl", rows(12))
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "test.csv").write_text('id,text,label\n1,"well, yes",a\n2,no,b\n')
    assert len(read_messages(tmp_path)) == 14


def test_toml_takes_any_text() -> None:
    tables = {
        "task": {"labels": ['a "b"', "tab\tnewline\n", "back\\slash", "日本 😀", "del\x7f"], "share": 0.5, "on": True},
        "teacher": {"n": 3, "escalate": [{"name": "x", "patterns": [r"\bsue\b"]}], "deep": {"url": "u"}},
        "student": [{"layers": 3}, {"layers": 2}],
    }
    assert tomllib.loads(to_toml(tables)) == tables


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.jsonl", '{"text": "a"}\n', "m.jsonl: line 1: label is missing"),
        (
            "m.jsonl",
            '{"text": "a", "label": "b"}\n\n{"text": 3, "label": "b"}\n',
            "m.jsonl: line 3: text is not a text",
        ),
        ("m.jsonl", '{"text": "  ", "label": "b"}\n', "m.jsonl: line 1: text is not a text"),
        ("m.jsonl", "text,label\n", "m.jsonl: line 1: not JSON"),
        ("m.jsonl", "[1]\n", "m.jsonl: line 1: not an object"),
        ("m.jsonl", '{"text": "a\\ud800", "label": "b"}\n', "m.jsonl: line 1: text has half of a surrogate pair"),
        ("m.jsonl", '{"text": "a", "label": "b", "domain": 1}\n', "m.jsonl: line 1: domain is not a text"),
        (
            "m.jsonl",
            '{"text": "' + "a" * 100_001 + '", "label": "b"}\n',
            "m.jsonl: line 1: text has 100,001 characters",
        ),
        ("m.jsonl", "\n", "holds no rows"),
        ("m.csv", "id,text\n1,a\n", "m.csv: line 1: there is no column label"),
        ("m.csv", "text,label\na,b\na,b,c\n", "m.csv: line 3: too many columns"),
        ("m.csv", 'text,label\n"a"b,c\n', "m.csv: line 2: not CSV"),
        ("m.csv", "text,label\na\n", "m.csv: line 2: label is missing"),
        ("m.jsonl.gz", "not gzip", "m.jsonl.gz: not a whole gzip file"),
        ("m.txt", "a", "is not one of .jsonl, .jsonl.gz, .csv"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, name, content, said) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"^[^\n]*$") as caught:
        read_messages(tmp_path / name)
    assert said in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_messages(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match=r"holds no .jsonl"):
        read_messages(tmp_path)
    (tmp_path / "m.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8 at byte 10"):
        read_messages(tmp_path / "m.jsonl")


def test_too_little_data_gets_one_sentence(tmp_path) -> None:
    with pytest.raises(DataError, match="500 distinct messages; the demo needs 4,000"):
        plan_data(write(tmp_path / "few.jsonl", rows(500)), 0)
    with pytest.raises(DataError, match="2 labels"):
        plan_data(write(tmp_path / "flat.jsonl", rows(5000, labels=2)), 0)
