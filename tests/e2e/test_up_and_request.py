"""What a user types: `stillhouse up` in one terminal, `stillhouse request` in another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STILLHOUSE = [sys.executable, "-c", "import sys; sys.argv[0] = 'stillhouse'; from stillhouse.cli import main; main()"]


def stillhouse(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STILLHOUSE, *arguments, "--home", str(home)], capture_output=True, text=True, cwd=ROOT, timeout=150
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    log = home / "up.txt"
    with log.open("w") as out:
        up = subprocess.Popen(
            [*STILLHOUSE, "up", "--foreground", "--home", str(home)], stdout=out, stderr=out, cwd=ROOT
        )
    try:
        deadline = time.monotonic() + 150
        while "ready" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield home
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, log.read_text()


def test_a_request_is_answered_by_the_teacher(home) -> None:
    done = stillhouse(
        "request", "--task", "manga-support", "--input", "where is my order", "--json", "--timeout", "120", home=home
    )
    assert done.returncode == 0, done.stderr
    completed = json.loads(done.stdout)
    assert completed["output"] == "order_status"
    assert completed["served_by"] == "teacher"
    assert abs(sum(completed["teacher"]["distribution"].values()) - 1) < 0.02


def test_high_risk_phrases_are_decided_by_their_rule(home) -> None:
    done = stillhouse("request", "--task", "manga-support", "--input", "my account was hacked", "--json", home=home)
    completed = json.loads(done.stdout)
    assert (completed["output"], completed["reason"]) == ("human_agent", "policy")


def spans(home: Path) -> list[dict]:
    found = []
    for file in (home / "traces").glob("*.jsonl"):
        # The last line may be on its way.
        found += [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    return found


def test_one_trace_runs_from_the_request_to_whoever_learns_from_it(home) -> None:
    done = stillhouse("request", "--task", "manga-support", "--input", "do you have volume 3", "--json", home=home)
    request_id = json.loads(done.stdout)["request_id"]

    def services() -> set[str]:
        every = spans(home)
        traces = {s["trace_id"] for s in every if s["attributes"].get("stillhouse.request.id") == request_id}
        return {s["service"] for s in every if s["trace_id"] in traces}

    deadline = time.monotonic() + 60
    while not {"router", "observer", "trainer"} <= services():
        assert time.monotonic() < deadline, services()
        time.sleep(0.2)


def test_an_unknown_task_gets_one_sentence(home) -> None:
    done = stillhouse("request", "--task", "nobody", "--input", "x", home=home)
    assert done.returncode == 1
    assert done.stderr == "unknown_task: no task 'default/nobody' is declared; known: default/manga-support.\n"


def test_a_killed_router_comes_back_and_answers_what_was_sent_meanwhile(home) -> None:
    # The router's pid stands in what `up` printed; it is the latest one there.
    lines = [line for line in (home / "up.txt").read_text().splitlines() if line.startswith("router        pid")]
    os.kill(int(lines[-1].split()[2].rstrip(",")), signal.SIGKILL)
    done = stillhouse("request", "--task", "manga-support", "--input", "refund please", "--timeout", "120", home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refund")


def test_a_second_up_in_the_same_folder_is_refused(home) -> None:
    done = stillhouse("up", home=home)
    assert done.returncode == 1
    assert done.stderr.startswith("Stillhouse is already up in ")
    assert done.stderr.count("\n") == 1


def test_no_broker_gets_one_sentence(tmp_path, monkeypatch, free_tcp_port) -> None:
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{free_tcp_port}")
    done = stillhouse("request", "--task", "t", "--input", "x", home=tmp_path)
    assert done.returncode == 1
    assert f"No broker at 127.0.0.1:{free_tcp_port}" in done.stderr


def test_a_taken_port_gets_one_sentence(tmp_path, free_tcp_port) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_tcp_port))
        taken.listen()
        done = stillhouse("up", "--port", str(free_tcp_port), home=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"Port {free_tcp_port} on 127.0.0.1 is taken; name another one with --port.\n"
