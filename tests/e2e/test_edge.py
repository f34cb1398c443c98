"""A task whose teacher writes, from `stillhouse up` on: asked by an OpenAI client, recorded, booked, restarted."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from openai import APIConnectionError, OpenAI

from tests.e2e.test_up_and_request import stillhouse

TASK = """
[task]
name = "slots"
kind = "generate"
description = "A sentence about a place to eat, as JSON"

[teacher]
kind = "recorded"
file = "answers.jsonl"
usd_per_call = 0.004

[budget]
usd_per_day = 1.0
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("edge")
    (home / "tasks").mkdir()
    (home / "tasks" / "slots.toml").write_text(TASK)
    rows = [{"input": f"A pub near {n}.", "output": json.dumps({"near": str(n)})} for n in range(50)]
    (home / "tasks" / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = stillhouse("up", "--tasks", str(home / "tasks"), home=home)
    assert done.returncode == 0, done.stderr
    assert "OpenAI-compatible" in done.stdout
    yield home
    assert stillhouse("down", home=home).returncode == 0


def client_of(home) -> OpenAI:
    port = json.loads(stillhouse("status", "--json", home=home).stdout)["edge_port"]
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def test_what_an_openai_client_asks_is_answered_and_booked(home) -> None:
    client = client_of(home)
    for n in range(20):
        said = client.chat.completions.create(model="slots", messages=[{"role": "user", "content": f"A pub near {n}."}])
        assert json.loads(said.choices[0].message.content) == {"near": str(n)}
    typed = stillhouse("request", "--task", "slots", "--input", "A pub near 21.", home=home)
    assert typed.stdout.startswith('{"near": "21"}'), typed.stderr

    def booked() -> dict:
        said = stillhouse("ledger", "--task", "slots", "--json", home=home)
        assert said.returncode == 0, said.stderr
        [found] = json.loads(said.stdout)
        return found

    deadline = time.monotonic() + 60
    while (found := booked())["requests"] < 21:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found["served_by"]["teacher"] == 21
    assert found["teacher_only_usd"] == pytest.approx(21 * 0.004)


def test_a_router_that_was_killed_serves_its_edge_again(home) -> None:
    state = json.loads(stillhouse("status", "--json", home=home).stdout)
    os.kill(state["services"]["router"]["pid"], signal.SIGKILL)
    deadline, client = time.monotonic() + 90, client_of(home)
    asked = [{"role": "user", "content": "A pub near 30."}]
    while True:
        try:
            said = client.chat.completions.create(model="slots", messages=asked)
            break
        except APIConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert json.loads(said.choices[0].message.content) == {"near": "30"}
