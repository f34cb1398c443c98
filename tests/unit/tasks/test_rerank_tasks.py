"""Task files of kind `rerank`."""

from __future__ import annotations

import pytest

from stillhouse.tasks import CrossEncoder, RerankerStudent, TaskFileError, load_task

TASK = """
[task]
name = "passages"
kind = "rerank"
max_input_chars = 100000

[teacher]
kind = "cross_encoder"
folder = "teacher"
usd_per_call = 0.002

[[student]]
architecture = "bi_encoder"
objective = "margin_mse"

[[student]]
architecture = "cross_encoder"
layers = 2

[gate.comparator]
kind = "ranking"
metric = "ndcg"
k = 10
at_least = 0.95
"""
ENDPOINT = """kind = "rerank_endpoint"
url = "https://api.example.com/v1/rerank"
model = "big-reranker"
"""

CONDITION = '[[gate.condition]]\nkind = "ranking"\nmetric = "mrr"\nfloor = 0.98\n'


def load(tmp_path, text):
    (tmp_path / "teacher").mkdir(exist_ok=True)
    (tmp_path / "task.toml").write_text(text)
    return load_task(tmp_path / "task.toml")


def test_a_task_with_a_local_teacher_and_two_students(tmp_path) -> None:
    task = load(tmp_path, TASK)
    assert isinstance(task.teacher, CrossEncoder)
    assert task.teacher.folder == tmp_path / "teacher"
    first, second = task.students
    assert isinstance(first, RerankerStudent)
    assert (first.max_tokens, first.objective, first.layers) == (64, "margin_mse", 6)
    assert (second.max_tokens, second.layers) == (96, 2)


def test_the_teacher_may_be_an_endpoint_and_students_may_be_none(tmp_path) -> None:
    text = TASK.replace('kind = "cross_encoder"\nfolder = "teacher"\n', ENDPOINT)
    text = text[: text.index("[[student]]")] + text[text.index("[gate") :]
    assert load(tmp_path, text).teacher.model == "big-reranker"


def test_a_gate_may_ask_for_a_mean_quality_of_tasks_that_rerank_only(tmp_path) -> None:
    [condition] = load(tmp_path, TASK + CONDITION).gate.condition
    assert (condition.metric, condition.floor) == ("mrr", 0.98)
    other = '[task]\nname = "t"\nlabels = ["a", "b"]\n[teacher]\nseed = "s.jsonl"\nusd_per_call = 0.1\n'
    (tmp_path / "s.jsonl").write_text("")
    with pytest.raises(TaskFileError, match="of kind ranking is for tasks of kind rerank"):
        load(tmp_path, other + '[[student]]\narchitecture = "hashed_ngrams"\n' + CONDITION)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('folder = "teacher"', 'folder = "nowhere"', r"teacher.folder names .*nowhere, which does not exist"),
        ('kind = "ranking"\nmetric = "ndcg"\nk = 10', 'kind = "set"', "needs a .gate.comparator. of kind ranking"),
        ('name = "passages"', 'name = "passages"\nlabels = ["a", "b"]', "has no labels"),
        (
            'architecture = "bi_encoder"\nobjective = "margin_mse"',
            'architecture = "hashed_ngrams"',
            "not for kind rerank",
        ),
        ("layers = 2", "layers = 1", "learn_layers = 2 is more than the 1 layers"),
        ('objective = "margin_mse"', 'objective = "magic"', "student.0.objective"),
        ('kind = "rerank"', 'kind = "generate"', "teacher that writes"),
        ('kind = "rerank"', 'kind = "classify"\nlabels = ["a", "b"]', "a teacher of kind .cross_encoder. ranks"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(tmp_path, old, new, says) -> None:
    assert old in TASK
    with pytest.raises(TaskFileError, match=says):
        load(tmp_path, TASK.replace(old, new))
