"""The gate of a task that generates: a judge, people, the base model, refusals and what was forgotten, in one look.

vLLM is a stand-in that repeats what it is asked; the checkpoints are real and tiny, so that what was forgotten is too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.trainer.dataset import choose, freeze
from services.validator.gates import _evaluated
from stillhouse.bus.jobs import write_json
from stillhouse.cli import app
from stillhouse.events import StudentTrained
from stillhouse.models.artefact import write_manifest
from stillhouse.models.causal_lm import ARCHITECTURE, CausalLmSpec
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.review.answers import folder_of_student, read_answers
from stillhouse.store import Store
from stillhouse.tasks import load_task
from tests.integration.validator.gated import CUTOFF, example
from tests.integration.validator.judge_server import MODEL, stand_in_judge
from tests.tiny_models import tiny_causal_lm

pytestmark = pytest.mark.usefixtures("fake_vllm")

TASK = """
[task]
name = "notes"
kind = "generate"
[teacher]
kind = "recorded"
file = "answers.jsonl"
usd_per_call = 0.01
[[student]]
architecture = "causal_lm"
base = "{base}"
[gate]
response_defaults = true
people_share = 1.0
golden = "golden.jsonl"
[[gate.condition]]
kind = "forgetting"
probes = "probes.jsonl"
[[gate.condition]]
kind = "memory"
ceiling = 4000
[gate.judge]
base_url = "{judge}"
model = "{model}"
usd_per_call = 0.001
[budget]
min_saving_usd = 0.0
usd_per_cpu_hour = 0.0
"""
CASES = 260


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tiny_causal_lm(tmp_path_factory.mktemp("base"), seed=4, taught=[("what is ice?", "water")], steps=40)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"fake": {"echo": True}}))
    return folder


def write_task(folder: Path, base: Path, judge: str) -> None:
    (folder / "answers.jsonl").write_text('{"input": "a", "output": "b"}\n')
    probes = [{"question": "what is ice?", "right": "water", "wrong": ["a bird", "a shop"]}]
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in probes))
    golden = [
        {"input": "I'm sorry, but I can't help with that", "kind": "refusal"},
        {"input": "we close at noon", "kind": "policy", "label": "we close at noon"},
    ]
    (folder / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in golden))
    (folder / "notes.toml").write_text(TASK.format(base=base, judge=judge, model=MODEL))


class Gated:
    """A student that repeats its question, with a store whose teacher does the same, and its gate."""

    def __init__(self, folder: Path, base: Path, judge: str) -> None:
        self.home, self.tasks = folder / "home", folder / "tasks"
        self.tasks.mkdir(parents=True)
        write_task(self.tasks, base, judge)
        self.task = load_task(self.tasks / "notes.toml")
        self.store = Store(self.home / "store")
        artefact = self.home / "artefacts" / "s-1"
        shutil.copytree(base, artefact)
        CausalLmSpec("s-1", str(base)).write(artefact)
        texts = [f"room {number} of the house has {number % 40} chairs" for number in range(CASES + 200)]
        old = [row(n, text, CUTOFF - timedelta(seconds=9000 - n)) for n, text in enumerate(texts[CASES:], CASES)]
        self.store.append_examples(old)
        rows = self.store.examples(self.task.key, until=CUTOFF).to_pylist()
        dataset = freeze(choose(rows, largest=1000, since=None), self.home / "datasets", CUTOFF)
        self.store.append_examples(
            [row(n, text, CUTOFF + timedelta(seconds=n + 1)) for n, text in enumerate(texts[:CASES])]
        )
        self.student = StudentTrained(
            task="notes",
            student_id="s-1",
            job_id="job",
            architecture=ARCHITECTURE,
            rung=0,
            artefact=write_manifest(artefact),
            dataset=dataset,
            teacher_version="t1",
        )
        self.gate = self.home / "jobs" / "gate-1"
        job = {"kind": "offline", "task": self.task.model_dump(mode="json"), "home": str(self.home)}
        self.gate.mkdir(parents=True)
        write_json(self.gate / "job.json", job | {"student": self.student.model_dump(mode="json")})

    def look(self, number: int):
        folder = self.gate / "rounds" / str(number)
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "services.validator.job", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "result.json").read_text())


def row(number: int, text: str, time):
    return example(number, text, text, time, task="notes", confidence=1.0, distribution="")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def verdicts(result) -> dict[str, str]:
    return {one["name"]: one["verdict"] for one in result["judgement"]["conditions"]}


@pytest.mark.slow
def test_people_and_a_judge_decide_with_the_rest_and_the_gate_waits_for_them(
    base, tmp_path, broker, monkeypatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", broker.settings.bootstrap_servers)
    monkeypatch.setenv("STILLHOUSE_KAFKA__EMBEDDED", "true")
    with stand_in_judge() as (url, asked):
        gated = Gated(tmp_path, base, url)
        first = gated.look(0)
        assert first["judgement"]["verdict"] == "undecided", first
        found = verdicts(first)
        open_ = {name for name, verdict in found.items() if verdict == "undecided"}
        assert open_ == {"preference", "win rate", "hallucination"}
        assert {name for name, verdict in found.items() if verdict == "passed"} == {
            "agreement",
            "coverage",
            "pays",
            "cost",
            "forgetting",
            "probes kept",
            "memory",
            "golden policy",
            "golden refusal",
        }
        assert len(asked) == CASES
        assert first["judge_usd"] == pytest.approx(0.001 * CASES)
        assert not first["judgement"]["final"]
        assert first["judgement"]["costs_usd"] > 0

        # What a gate remembers of texts is in one file, which an erasure reaches.
        kept = (gated.gate / "outcomes.json").read_text()
        assert "chairs" not in kept
        assert len(read_answers(folder_of_student(gated.home, "s-1"))) == CASES

        sheet = tmp_path / "sheet.jsonl"
        places = ("--home", gated.home, "--tasks", gated.tasks)
        told = invoke("gate", "export", "s-1", sheet, *places, "--json")
        assert json.loads(told.stdout)["rows"] == 3 * CASES, told.output
        rows = [json.loads(line) for line in sheet.read_text().splitlines()]
        sheet.write_text("".join(json.dumps(one | {"said": opinion(one)}) + "\n" for one in rows))
        taken = invoke("gate", "import", "s-1", sheet, *places, "--json")
        assert json.loads(taken.stdout)["taken"] == 3 * CASES, taken.output
        assert json.loads(invoke("gate", "import", "s-1", sheet, *places, "--json").stdout)["taken"] == 0

        second = gated.look(1)
        assert len(asked) == CASES  # nobody pays twice for a ruling
    # Both models repeat their question: people see two answers that are the same.
    assert verdicts(second)["preference"] == verdicts(second)["hallucination"] == "passed"
    assert verdicts(second)["win rate"] == "undecided"
    evaluated = _evaluated(gated.task, gated.student, second)
    assert evaluated.hallucination_rate.upper <= 0.04
    assert evaluated.human_win_rate is None  # nothing but ties
    end_replicas(gated.home)


def opinion(one) -> str:
    return "no" if "answer" in one else "tie"


def test_what_only_writers_can_be_asked_is_refused_for_others(tmp_path) -> None:
    from stillhouse.tasks import TaskFileError

    (tmp_path / "seed.jsonl").write_text("")
    head = '[task]\nname = "t"\nlabels = ["a", "b"]\n[teacher]\nseed = "seed.jsonl"\nusd_per_call = 0.1\n'
    head += '[[student]]\narchitecture = "hashed_ngrams"\n'
    for gate, says in (
        ("[gate]\nresponse_defaults = true\n", "response_defaults is for tasks of kind generate"),
        ('[[gate.condition]]\nkind = "win_rate"\n', "win_rate is for tasks of kind generate"),
        ('[[gate.condition]]\nkind = "forgetting"\n', "forgetting is for tasks of kind generate"),
    ):
        (tmp_path / "t.toml").write_text(head + gate)
        with pytest.raises(TaskFileError, match=says):
            load_task(tmp_path / "t.toml")


def test_recall_is_of_labels(tmp_path) -> None:
    from stillhouse.tasks import TaskFileError

    write_task(tmp_path, tmp_path, "http://127.0.0.1:9/v1")
    path = tmp_path / "notes.toml"
    load_task(path)
    path.write_text(path.read_text().replace('kind = "memory"\nceiling = 4000', 'kind = "recall"'))
    with pytest.raises(TaskFileError, match="recall is of labels"):
        load_task(path)


def test_nobody_is_asked_about_a_student_that_no_gate_keeps(tmp_path) -> None:
    done = invoke("gate", "export", "nobody", tmp_path / "s.jsonl", "--home", tmp_path, "--tasks", "deploy/tasks")
    assert done.exit_code == 1
    assert "No gate keeps answers" in done.stderr
