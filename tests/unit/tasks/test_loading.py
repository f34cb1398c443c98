"""A bad task file gets one sentence that names file, key and mend."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stillhouse.tasks import Endpoint, Recording, Task, TaskFileError, load_task, load_tasks

GOOD = """
[task]
name = "t"
labels = ["a", "b"]
[teacher]
seed = "seed.jsonl"
usd_per_call = 0.1
[[student]]
architecture = "hashed_ngrams"
"""

END = '"hashed_ngrams"\n'


def write(folder: Path, text: str) -> Path:
    (folder / "seed.jsonl").write_text('{"text": "x", "label": "a"}\n')
    path = folder / "t.toml"
    path.write_text(text)
    return path


def test_the_tasks_of_the_repository_load() -> None:
    assert "default/manga-support" in load_tasks(Path(__file__).parents[3] / "deploy" / "tasks")


WRITES = """
[task]
name = "w"
kind = "generate"
[teacher]
kind = "openai"
model = "big"
usd_per_call = 0.01
price_model = "openai:gpt-4o-mini"
max_output_tokens = 1000
"""


def test_a_task_that_generates_has_a_teacher_that_writes_and_nothing_else(tmp_path) -> None:
    task = load_task(write(tmp_path, WRITES))
    assert isinstance(task.teacher, Endpoint)
    assert (task.labels, task.students) == ((), ())
    assert task.teacher.price(1_000_000, 0) == pytest.approx(0.15)
    # Set aside: 4 bytes a character, each a token, and the longest answer; never less than an average call.
    assert task.most_usd(datetime.now(UTC)) == pytest.approx(max(0.01, 32_000 * 0.15e-6 + 1000 * 0.6e-6))
    with pytest.raises(TypeError, match="of kind openai"):
        _ = task.ensemble
    recorded = WRITES.split("[teacher]")[0] + '[teacher]\nkind = "recorded"\nusd_per_call = 0.0\nfile = "{}"\n'
    found = load_task(write(tmp_path, recorded.format("seed.jsonl"))).teacher
    assert isinstance(found, Recording)
    assert found.file == tmp_path / "seed.jsonl"
    with pytest.raises(TaskFileError, match=r"teacher\.file names .*none\.jsonl, which does not exist"):
        load_task(write(tmp_path, recorded.format("none.jsonl")))
    with pytest.raises(TaskFileError, match=r"teacher\.price_model: genai-prices knows no model"):
        load_task(write(tmp_path, WRITES.replace("gpt-4o-mini", "no-such-model")))


def test_defaults_and_the_seed_path_starts_at_the_file(tmp_path) -> None:
    task = load_task(write(tmp_path, GOOD))
    assert task.key == "default/t"
    assert task.teacher.seed == tmp_path / "seed.jsonl"
    assert task.gate.epsilon == 0.05


def test_the_promise_of_a_cascade_says_what_it_is_about(tmp_path) -> None:
    overall = load_task(write(tmp_path, GOOD)).cascade
    assert (overall.confidence, overall.counts(True), overall.counts(False)) == ("learned", True, True)
    assert overall.sentence(0.05).startswith("At most 5.0% of all requests")
    table = '[cascade]\npromise = "selective"\nconfidence = "margin"\ngroups = true\nrecalibrate_every = 500\n'
    selective = load_task(write(tmp_path, GOOD + table)).cascade
    assert (selective.confidence, selective.counts(True), selective.counts(False)) == ("margin", True, False)
    assert selective.sentence(0.05) == "At most 5.0% of the requests that the student answers differ from the teacher."
    with pytest.raises(TaskFileError, match=r"cascade\.promise"):
        load_task(write(tmp_path, GOOD + '[cascade]\npromise = "most"\n'))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('["a", "b"]', '["a", "a"]', "task.labels: labels repeat"),
        ('name = "t"', 'name = "T T"', "task.name"),
        ("usd_per_call = 0.1", "usd_per_call = -1", "teacher.usd_per_call"),
        ("usd_per_call = 0.1", "", "teacher.usd_per_call: the key is missing"),
        ("usd_per_call = 0.1", "usd_per_call = 0.1\ncolour = 1", "teacher.colour: there is no such key"),
        (
            "usd_per_call = 0.1",
            'usd_per_call = 0.1\nkind = "magic"',
            "teacher: kind must be one of ensemble, openai, anthropic, recorded, cross_encoder and",
        ),
        (
            "[[student]]",
            '[data.judge]\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "m"\n\n[[student]]',
            "data.judge: rubric is missing; say what an answer must be to teach",
        ),
        ('["a", "b"]', '["a"]', "labels must name at least two labels"),
        ("[[student]]" + GOOD.split("[[student]]")[1], "", "needs at least one [[student]]"),
        ('name = "t"', 'name = "t"\nkind = "generate"', "has no labels, and a teacher that writes"),
        ('seed = "seed.jsonl"', 'kind = "recorded"\nfile = "seed.jsonl"', "a teacher of kind 'recorded' writes"),
        ('seed = "seed.jsonl"', 'kind = "recorded"\nfile = "none.jsonl"', "a teacher of kind 'recorded' writes"),
        ('"hashed_ngrams"', '"gpt"', "student.0.architecture"),
        ("[teacher]", "[review]\nrandom_share = 2\n[teacher]", "review.random_share"),
        ("[teacher]", '[cascade]\nconfidence = "self_consistency"\n[teacher]', "is for tasks of kind generate"),
        ("[teacher]", "[techer]", "unknown table [techer]"),
        (END, END + '[[distill.term]]\nkind = "dkd"', "write each term as [[student.distill]]"),
        ('"hashed_ngrams"', '"text_cnn"\nvectors = "none"', "which does not exist; name a Model2Vec folder"),
        ('"hashed_ngrams"', '"hashed_ngrams"\nvectors = "none"', "vectors is for static_embeddings and text_cnn"),
        ('name = "t"', 'name = "t', "not valid TOML"),
        ("seed.jsonl", "none.jsonl", "does not exist"),
        ("usd_per_call = 0.1", 'usd_per_call = 0.1\nescalate = [{name = "x", patterns = ["("]}]', "regular expression"),
        ("usd_per_call = 0.1", 'usd_per_call = 0.1\nescalate = [{name = "x", patterns = ["q"], label = "z"}]', "'z'"),
        (END, END + '[[gate.condition]]\nkind = "speed"', "gate.condition.0"),
        (END, END + '[[gate.condition]]\nkind = "size"', "gate.condition.0.size.ceiling: the key is missing"),
        (END, END + '[[gate.condition]]\nkind = "recall"\nceiling = 1', "gate.condition.0.recall.ceiling: there is no"),
        (END, END + '[[gate.condition]]\nkind = "recall"\nlabels = ["z"]', "gate.condition names 'z'"),
        (END, END + '[[gate.condition]]\nkind = "slice"\nby = "length"\nedges = [9, 5]', "edges must be positive and"),
        (END, END + 2 * '[[gate.condition]]\nkind = "cost"\n', "condition 'cost' is named twice"),
        (END, END + '[gate]\ngolden = "none.jsonl"', "none.jsonl cannot be read"),
        (END, END + '[gate]\ngolden = "t.toml"', "t.toml line 2 is not JSON"),
        (END, END + '[gate]\ngolden = "seed.jsonl"', "seed.jsonl line 1: input: Field required"),
        (END, END + '[gate]\ncomparator = {kind = "json", at_least = 2}', "gate.comparator.json.at_least"),
        (END, END + '[gate]\ncomparator = {kind = "embedding", pairs = "seed.jsonl"}', "not an object with a, b and"),
    ],
)
def test_one_sentence_names_file_key_and_mend(tmp_path, old, new, says) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TaskFileError) as caught:
        load_task(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value).removeprefix(str(path))


def test_conditions_comparator_and_golden_set_are_read(tmp_path) -> None:
    (tmp_path / "golden.jsonl").write_text('{"input": "x", "kind": "escalation"}\n\n{"input": "y", "label": "a"}\n')
    (tmp_path / "pairs.jsonl").write_text('{"a": "x", "b": "y", "same": true}\n')
    text = (
        GOOD
        + """
[gate]
golden = "golden.jsonl"
golden_floor = {policy = 0.9}
comparator = {kind = "embedding", pairs = "pairs.jsonl"}
[[gate.condition]]
kind = "recall"
labels = ["a"]
margin = 0.02
[[gate.condition]]
kind = "slice"
by = "week"
[[gate.condition]]
kind = "slice"
by = "length"
"""
    )
    gate = load_task(write(tmp_path, text)).gate
    assert gate.golden == tmp_path / "golden.jsonl"
    assert gate.comparator.pairs == tmp_path / "pairs.jsonl"  # type: ignore[union-attr]
    assert [condition.kind for condition in gate.condition] == ["recall", "slice", "slice"]
    assert (gate.golden_floor.policy, gate.golden_floor.escalation) == (0.9, 1.0)


def test_a_gate_survives_its_job_file(tmp_path) -> None:
    text = GOOD + '[[gate.condition]]\nkind = "memory"\nceiling = 300\n'
    task = load_task(write(tmp_path, text))
    assert Task.model_validate(task.model_dump(mode="json")) == task


def test_a_task_declared_twice_is_refused(tmp_path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "u.toml").write_text(GOOD)
    with pytest.raises(TaskFileError, match="declared twice"):
        load_tasks(tmp_path)


def test_a_class_alpha_names_labels_of_the_task(tmp_path) -> None:
    assert load_task(write(tmp_path, GOOD + "class_alpha = { a = 0.9 }\n")).students[0].class_alpha == {"a": 0.9}
    for line, sentence in (("{ c = 0.9 }", "'c', which is not in labels"), ("{ a = 2 }", "less than or equal to 1")):
        with pytest.raises(TaskFileError, match=sentence):
            load_task(write(tmp_path, GOOD + f"class_alpha = {line}\n"))


def test_what_teaches_is_a_table_of_its_own(tmp_path) -> None:
    task = load_task(write(tmp_path, WRITES + "[data]\nteacher = 25000\npolicy = 2000\ngrounded = true\n"))
    assert (task.data.teacher, task.data.human, task.data.policy) == (25000, None, 2000)
    with pytest.raises(TaskFileError, match=r"t\.toml: data\.polcy: there is no such key"):
        load_task(write(tmp_path, WRITES + "[data]\npolcy = 2000\n"))


def test_a_rung_with_a_local_teacher_says_what_it_lacks(tmp_path) -> None:
    rung = '[[student]]\narchitecture = "causal_lm"\nbase = "b"\nobjective = "jsd"\nkeep_layers = 12\n'
    with pytest.raises(TaskFileError, match="objective jsd needs teacher_model"):
        load_task(write(tmp_path, WRITES + rung))
    [student] = load_task(write(tmp_path, WRITES + rung + 'teacher_model = "t"\ntop_k = 20\n')).students
    assert (student.top_k, student.pruned) == (20, True)
