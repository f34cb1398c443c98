"""The teacher in its own process: answers, dies, comes back; and asks an adjudicator where it is unsure."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stillhouse.models.port import ModelError
from stillhouse.models.worker_model import WorkerModel
from stillhouse.tasks import Adjudicator, load_task

TASK = load_task(Path(__file__).parents[3] / "deploy" / "tasks" / "manga-support.toml")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


async def answers_again(worker: WorkerModel) -> None:
    """Calls fail with `ModelError` until the process is back, a few seconds later."""
    async with asyncio.timeout(60):
        while True:
            try:
                await worker.predict(["still there?"])
                return
            except ModelError:
                await asyncio.sleep(0.1)


async def test_it_answers_alike_twice_and_survives_a_kill(home) -> None:
    worker = WorkerModel.teacher(TASK, home)
    try:
        await worker.start()
        [first], [second] = await worker.predict(["where is my parcel"]), await worker.predict(["where is my parcel"])
        assert first.output == second.output == "order_status"
        assert first.distribution == second.distribution
        assert first.cost_usd == TASK.teacher.usd_per_call
        assert first.cpu_ms > 0
        os.kill(worker.pid, signal.SIGKILL)
        await answers_again(worker)
        assert (await worker.predict(["my card was hacked"]))[0].policy == "fraud"
    finally:
        await worker.close()


@pytest.fixture
def llm():
    """A stand-in for an OpenAI-compatible endpoint: always chooses `payment`, and remembers what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            message = {"role": "assistant", "content": '{"label": "payment"}'}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "stand-in",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


async def test_only_ambiguous_inputs_go_to_the_adjudicator(home, llm) -> None:
    url, asked = llm
    adjudicator = Adjudicator(base_url=url, model="stand-in", below_margin=0.3)
    task = TASK.model_copy(update={"teacher": TASK.teacher.model_copy(update={"adjudicator": adjudicator})})
    worker = WorkerModel.teacher(task, home)
    try:
        await worker.start()
        clear, unsure = await worker.predict(["where is my order", "refund or payment, my card was charged twice"])
    finally:
        await worker.close()
    assert clear.output == "order_status"
    assert asked == ["refund or payment, my card was charged twice"]
    assert unsure.output == "payment"
    assert unsure.confidence > 0.5
