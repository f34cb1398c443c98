"""What the demo of a writing task plays: which answers teach, which judge, and the schema that all of them follow."""

from __future__ import annotations

import gzip
import itertools
import json

import jsonschema
import pytest

from stillhouse.demo.data import DataError
from stillhouse.demo.writing.sample import generate
from stillhouse.demo.writing.source import Sizing, plan_writing, schema_of, write_task


def test_what_judges_shares_no_answer_with_what_teaches() -> None:
    plan = plan_writing(None, 0, Sizing())
    assert len(plan.taught) == 600
    assert len(plan.rest) > 1500
    assert not {pair.group for pair in plan.taught} & {pair.group for pair in plan.rest}
    assert "authored sample" in plan.plan.origin
    assert plan_writing(None, 0, Sizing()) == plan


def test_the_schema_takes_every_answer_and_keeps_the_order_of_keys() -> None:
    outputs = [pair.output for pair in itertools.islice(generate(1), 300)]
    schema = schema_of(outputs)
    for output in outputs:
        jsonschema.validate(json.loads(output), schema)
    assert list(schema["properties"]) == list(json.loads(outputs[0]))
    assert schema["properties"]["delivery"] == {"enum": ["express", "pick-up", "standard"]}
    assert schema["properties"]["gift"] == {"type": "boolean"}
    assert schema["properties"]["title"] == {"type": "string"}  # too many to be all there are
    assert schema["required"] == ["title", "volume", "count", "delivery", "gift"]
    optional = schema_of(['{"a": 1, "c": 3}', '{"b": 2, "c": 3}', '{"a": 1, "b": 2}'])
    assert list(optional["properties"]) == ["a", "b", "c"], "not in the order in which they were first seen"
    assert schema_of(['{"a": 1, "b": 2}', '{"b": 2, "a": 1}']) == {"type": "object"}
    assert schema_of(['{"a": "x"}', '{"a": "x", "b": 1.5}', '{"a": "x"}'])["required"] == ["a"]


def test_the_task_file_is_one_that_services_load(tmp_path) -> None:
    plan = plan_writing(None, 0, Sizing(base=str(tmp_path)))
    task = write_task(plan, tmp_path / "tasks", Sizing(base=str(tmp_path), learning_rate=0.001))
    assert task.kind == "generate"
    assert task.group_by == "group"
    assert task.students[0].architecture == "causal_lm"
    assert task.response_schema is not None
    assert task.response_schema.is_file()
    assert task.teacher.kind == "recorded"


def test_what_is_taught_shares_no_answer_with_what_judges(tmp_path) -> None:
    pairs = list(itertools.islice(generate(2), 500))
    rows = [json.dumps({"id": str(n), "input": p.input, "output": p.output}) for n, p in enumerate(pairs)]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
        file.write("\n".join(rows))
    (tmp_path / "test.jsonl").write_text("not read")
    plan = plan_writing(tmp_path / "train.jsonl.gz", 0, Sizing(taught=200))
    assert len(plan.taught) == 200
    assert not {p.group for p in plan.taught} & {p.group for p in plan.rest}
    assert plan_writing(tmp_path, 0, Sizing(taught=200)) == plan, "a folder's training file was not taken"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"input": "a"}', ":1: a row needs"),
        ("[1]", ":1: a row needs"),
        ("{", "cannot be read"),
        ('{"input": "a", "output": "b"}', "too few recorded answers"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path, content, said) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        plan_writing(path, 0, Sizing())
    with pytest.raises(DataError, match="no such"):
        plan_writing(tmp_path / "none.jsonl", 0, Sizing())
    with pytest.raises(DataError, match=r"holds no train\.jsonl"):
        plan_writing(tmp_path, 0, Sizing())
