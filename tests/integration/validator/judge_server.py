"""A stand-in for an OpenAI-compatible endpoint, called `stand-in-judge`: it prefers the longer answer or the first.

An answer meets its rubric if it is in the words of the rubric.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "stand-in-judge"


@contextmanager
def stand_in_judge(*, first: bool = False, silent: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its base URL and the requests that it gets."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            pair = json.loads(body["messages"][1]["content"])
            if "answer" in pair and "given" not in pair:  # asked about a rubric
                said = json.dumps({"meets": pair["answer"] in body["messages"][0]["content"].split()})
            elif "answer" in pair:  # asked about grounding: only what is given word by word has any
                said = json.dumps({"grounded": pair["answer"].rstrip(".") in pair["given"]})
            else:
                a, b = len(pair["A"]), len(pair["B"])
                said = json.dumps({"winner": "A" if first else "tie" if a == b else "A" if a > b else "B"})
            content = "I would rather not say." if silent else f"Well: {said}"
            message = {"role": "assistant", "content": content}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            reply = {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": choices}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
