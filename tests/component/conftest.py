"""A real Valkey, a task file, and settings that point at both."""

from __future__ import annotations

import pytest

from stillhouse.embedded.valkey import EmbeddedValkey

TASK_FILE = """
[task]
name = "intents"
labels = ["a", "b"]

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002

[[student]]
architecture = "hashed_ngrams"

[gate]
shadow_requests = 20
"""


@pytest.fixture
async def service_environment(free_tcp_port, tmp_path, monkeypatch):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "intents.toml").write_text(TASK_FILE)
    (tasks / "seed.jsonl").write_text('{"text": "x", "label": "a"}\n')
    valkey = EmbeddedValkey(tmp_path / "valkey", free_tcp_port, tmp_path / "valkey.log")
    await valkey.start()
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(tasks))
    monkeypatch.setenv("STILLHOUSE_REDIS__URL", valkey.url)
    yield tmp_path
    await valkey.stop()
