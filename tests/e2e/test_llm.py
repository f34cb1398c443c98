"""A language model learns from a recorded teacher, is gated, served by vLLM, and takes over: the whole loop, tiny."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from openai import OpenAI

from tests.e2e.test_up_and_request import stillhouse
from tests.tiny_models import tiny_causal_lm

pytestmark = pytest.mark.slow

TASK = """
[task]
name = "paint"
kind = "generate"
description = "What is to be painted, as JSON"
response_schema = "paint.schema.json"

[teacher]
kind = "recorded"
file = "answers.jsonl"
usd_per_call = 0.004

[[student]]
architecture = "causal_lm"
base = "{base}"
method = "full"
learning_rate = 3e-3
epochs = 2
max_tokens = 200
max_new_tokens = 40
batch_size = 1024
step_tokens = 512
quantization = "w8a8"
max_quantization_loss = 0.2

[gate]
comparator = {{ kind = "json" }}
shadow_requests = 20
canary_share = 0.5
latency_p99_ms = 30000
student_timeout_ms = 30000

[audit]
pi = 0.2

[budget]
min_examples = 300
"""
COLOURS = ("red", "blue", "green", "white")
THINGS = ("door", "wall", "shop", "chair")


def rows(seed: int) -> list[dict[str, str]]:
    rng = random.Random(seed)
    asked = [
        (f"{please} {verb} the {thing} {colour} {when}", {"thing": thing, "colour": colour})
        for please in ("please", "kindly", "would you", "could you")
        for verb in ("paint", "make", "spray", "turn")
        for thing in THINGS
        for colour in COLOURS
        for when in ("now", "today", "tomorrow", "on monday", "soon", "at once", "by noon", "tonight")
    ]
    rng.shuffle(asked)
    return [{"input": text, "output": json.dumps(said)} for text, said in asked]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("llm")
    (home / "tasks").mkdir()
    base = tiny_causal_lm(home / "base", seed=1)
    (home / "tasks" / "paint.toml").write_text(TASK.format(base=base))
    schema = {
        "type": "object",
        "properties": {"thing": {"type": "string"}, "colour": {"type": "string"}},
        "required": ["thing", "colour"],
        "additionalProperties": False,
    }
    (home / "tasks" / "paint.schema.json").write_text(json.dumps(schema))
    (home / "tasks" / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0)))
    done = stillhouse("up", "--tasks", str(home / "tasks"), home=home)
    assert done.returncode == 0, done.stderr
    yield home
    assert stillhouse("down", home=home).returncode == 0


def client_of(home) -> OpenAI:
    port = json.loads(stillhouse("status", "--json", home=home).stdout)["edge_port"]
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=90)


def route_of(home) -> dict:
    said = stillhouse("routes", "--json", home=home)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    return found[0] if found else {"stage": "teacher"}


def test_a_tiny_model_takes_over_and_its_death_is_nobodys_failure(home) -> None:
    client, supply = client_of(home), iter(rows(0))

    def ask() -> str:
        row = next(supply)
        said = client.chat.completions.with_raw_response.create(
            model="paint", messages=[{"role": "user", "content": row["input"]}]
        )
        answer = json.loads(said.parse().choices[0].message.content)
        assert answer.keys() == {"thing", "colour"}
        return said.headers["x-stillhouse-served-by"]

    for _ in range(320):
        assert ask() == "teacher"
    deadline = time.monotonic() + 900
    while (route := route_of(home))["stage"] != "live":
        assert time.monotonic() < deadline, (route, stillhouse("students", "--json", home=home).stdout)
        assert ask() in ("teacher", "student")
        time.sleep(0.5 if route["stage"] == "teacher" else 0.0)
    served = [ask() for _ in range(30)]
    assert served.count("student") >= 10, served
    # The student's vLLM dies: whoever asks is answered, by the teacher until it is back.
    [replica] = (home / "replicas").iterdir()
    state = json.loads((replica / "replica.json").read_text())
    os.kill(state["vllm_pid"], signal.SIGKILL)
    assert {ask() for _ in range(20)} <= {"teacher", "student"}
