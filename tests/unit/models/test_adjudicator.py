"""Whatever the LLM's endpoint does, the encoder's answer stands or a label that was offered takes its place."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stillhouse.models.adjudicator import Adjudicator
from stillhouse.models.port import Prediction
from stillhouse.tasks import Adjudicator as Settings

UNSURE = Prediction("refund", 0.40, {"refund": 0.40, "payment": 0.35, "other": 0.25})


@pytest.fixture
def endpoint():
    """A hand-written OpenAI-compatible server; `endpoint.reply` is (status, body) or None: accept and say nothing."""
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            server.seen.append((self.path, self.headers["Authorization"], json.loads(raw)))
            if server.reply is None:
                release.wait(10)
                return
            status, body = server.reply
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    server.reply = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    release.set()
    server.shutdown()
    server.server_close()


def completion(content: str) -> str:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 60, "completion_tokens": 7, "total_tokens": 67}
    frame = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(frame)


async def settled(server, prediction: Prediction = UNSURE, timeout_s: float = 5.0) -> Prediction:
    settings = Settings(
        base_url=f"http://127.0.0.1:{server.server_port}/v1",
        model="m",
        api_key_env="STILLHOUSE_TEST_KEY",
        timeout_s=timeout_s,
    )
    adjudicator = Adjudicator(settings, "Intent of a message")
    try:
        assert adjudicator.ambiguous(prediction)
        return await adjudicator.settle("my card was charged twice", prediction)
    finally:
        await adjudicator.close()


async def test_the_chosen_label_leads_a_distribution_that_still_sums_to_one(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("STILLHOUSE_TEST_KEY", "k-1")
    endpoint.reply = (200, completion('Sure: {"label": "payment"}'))
    answer = await settled(endpoint)
    assert answer.output == "payment"
    assert answer.confidence == answer.distribution["payment"] == pytest.approx(0.9)
    assert sum(answer.distribution.values()) == pytest.approx(1)
    assert answer.distribution["refund"] / answer.distribution["other"] == pytest.approx(0.40 / 0.25)
    assert (answer.input_tokens, answer.output_tokens) == (60, 7)
    [(path, authorisation, body)] = endpoint.seen
    assert (path, authorisation, body["model"]) == ("/v1/chat/completions", "Bearer k-1", "m")
    assert "my card was charged twice" not in body["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        (500, "{}"),
        (401, '{"error": {"message": "no"}}'),
        (200, "<html>a proxy's page</html>"),
        (200, '{"choices": []}'),
        (200, '{"choices": [{"message": null}]}'),
        (200, '"text"'),
        (200, completion("payment")),
        (200, completion('{"label": "delete_everything"}')),
        (200, completion('{"label": ["payment"]}')),
        (200, completion('{"label": 1} {"label": 2}')),
    ],
)
async def test_anything_else_leaves_the_encoders_answer(endpoint, reply) -> None:
    endpoint.reply = reply
    answer = await settled(endpoint)
    assert (answer.output, answer.distribution) == (UNSURE.output, UNSURE.distribution)


async def test_a_silent_endpoint_leaves_the_encoders_answer(endpoint) -> None:
    assert await settled(endpoint, timeout_s=0.2) == UNSURE


def test_clear_and_ruled_answers_are_not_ambiguous() -> None:
    adjudicator = Adjudicator(Settings(base_url="http://127.0.0.1:1/v1", model="m", below_margin=0.1), "")
    assert not adjudicator.ambiguous(Prediction("a", 0.8, {"a": 0.8, "b": 0.2}))
    assert not adjudicator.ambiguous(Prediction("a", 1.0, {"a": 1.0}))
    assert not adjudicator.ambiguous(Prediction("a", 0.5, {"a": 0.5, "b": 0.5}, policy="fraud"))
