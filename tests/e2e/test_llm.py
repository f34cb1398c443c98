"""A language model learns from a recorded teacher, is gated, served by vLLM, and takes over: the whole loop, tiny."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter

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
quantization = "none"

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
max_train_examples = 300
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


class Load:
    """Some clients that ask one question after the other; what went wrong for any of them is kept."""

    def __init__(self, home, supply, clients: int = 4, pause_s: float = 1.0) -> None:
        self.served: Counter[str] = Counter()
        self.failures: list[str] = []
        self._home, self._supply, self._pause_s = home, supply, pause_s
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        client = client_of(self._home)
        while not self._over.wait(self._pause_s):
            with self._lock:
                row = next(self._supply)
            try:
                served = ask(client, row)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                with self._lock:
                    self.served[served] += 1


def ask(client: OpenAI, row: dict[str, str]) -> str:
    """Who answered; the answer has the right shape, whoever it was."""
    said = client.chat.completions.with_raw_response.create(
        model="paint", messages=[{"role": "user", "content": row["input"]}]
    )
    assert json.loads(said.parse().choices[0].message.content).keys() == {"thing", "colour"}
    return said.headers["x-stillhouse-served-by"]


def wait_for(home, what, patience_s: float = 900.0):
    """Look at the task's route until `what` of it is true."""
    deadline = time.monotonic() + patience_s
    while not what(route := route_of(home)):
        assert time.monotonic() < deadline, (route, stillhouse("students", "--json", home=home).stdout)
        time.sleep(3)  # each look is a command, which takes a second of the cores that all of this runs on
    return route


def test_students_take_over_from_teacher_and_from_each_other_and_no_request_fails(home) -> None:
    client, supply = client_of(home), itertools.cycle(rows(0))
    for _ in range(320):
        assert ask(client, next(supply)) == "teacher"
    with Load(home, supply) as load:
        first = wait_for(home, lambda route: route["stage"] == "live")["live"]["student_id"]
        assert stillhouse("train", "--task", "paint", "--reason", "another", home=home).returncode == 0
        second = wait_for(home, lambda route: route["live"] and route["live"]["student_id"] != first)["live"]
        before = load.served["student"]
        deadline = time.monotonic() + 120
        while load.served["student"] < before + 20:
            assert time.monotonic() < deadline, load.served
            time.sleep(0.2)
        # Its vLLM dies in mid-answer: whoever asks is answered, by the teacher until it is back.
        state = home / "replicas" / second["student_id"] / "replica.json"
        os.kill(json.loads(state.read_text())["vllm_pid"], signal.SIGKILL)
        taught = load.served["teacher"]
        while load.served["teacher"] < taught + 20:
            assert time.monotonic() < deadline + 60, load.served
            time.sleep(0.2)
        back = load.served["student"]
        while load.served["student"] < back + 5:
            assert time.monotonic() < deadline + 400, load.served
            time.sleep(0.2)
    assert load.failures == []
    students = {one["student_id"]: one for one in json.loads(stillhouse("students", "--json", home=home).stdout)}
    assert {first, second["student_id"]} <= students.keys()
