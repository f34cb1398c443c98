"""A seed set that cannot be used gets one sentence with file and line."""

from __future__ import annotations

import pytest

from stillhouse.models.port import ModelError
from stillhouse.models.rules import EscalationRules
from stillhouse.models.teacher import fit_teacher, teacher_folder
from stillhouse.tasks import EscalationRule, StudentCandidate, Task, Teacher

GOOD = '{"text": "hello there", "label": "hi"}\n{"text": "see you", "label": "bye"}\n'


def task_with(tmp_path, seed: str) -> Task:
    path = tmp_path / "seed.jsonl"
    path.write_text(seed)
    return Task(
        name="t",
        labels=("hi", "bye"),
        teacher=Teacher(seed=path, usd_per_call=0.1),
        students=(StudentCandidate(architecture="hashed_ngrams"),),
    )


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch):
    """Seed sets are refused before the encoder is loaded."""

    def loaded(*_):
        raise AssertionError("the encoder was loaded for a seed set that cannot be used")

    monkeypatch.setattr("stillhouse.models.teacher.ensure_encoder", loaded)
    monkeypatch.setattr("stillhouse.models.teacher.SentenceEncoder", loaded)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("{broken\n", "line 3: not JSON"),
        ('{"text": "x"}\n', "line 3: needs text and label"),
        ('{"text": " ", "label": "hi"}\n', "line 3: text is empty"),
        ('{"text": "x", "label": "no"}\n', "line 3: label 'no'"),
    ],
)
def test_bad_rows_are_named(tmp_path, extra, says) -> None:
    with pytest.raises(ModelError, match=r"seed\.jsonl") as caught:
        fit_teacher(task_with(tmp_path, GOOD + extra), tmp_path / "home")
    assert says in str(caught.value)


def test_a_label_without_examples_is_named(tmp_path) -> None:
    with pytest.raises(ModelError, match="no row has the label 'bye'"):
        fit_teacher(task_with(tmp_path, GOOD.splitlines()[0]), tmp_path / "home")


def test_another_seed_is_another_teacher(tmp_path) -> None:
    one = teacher_folder(task_with(tmp_path, GOOD), tmp_path)
    assert one != teacher_folder(task_with(tmp_path, GOOD + "\n"), tmp_path)


def test_rules_match_without_case_and_the_first_wins() -> None:
    rules = EscalationRules(
        [EscalationRule(name="fraud", patterns=(r"\bfraud",)), EscalationRule(name="legal", patterns=("sue", "fraud"))]
    )
    matched = [rules.find(text) for text in ("This is FRAUD", "I sue", "defraud me", "hello")]
    assert [rule.name if rule else None for rule in matched] == ["fraud", "legal", "legal", None]
