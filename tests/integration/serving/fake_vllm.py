"""Stands in for `python -m vllm.entrypoints.openai.api_server`: its options, its health, its answers, its engine.

What it does is in the checkpoint's `config.json` under `fake`: `fails` (a line to end with), `slow_s` (until healthy),
`echo` (answers are what was asked, a line for each message) or `says` (what they are), `longest` (characters; what is
longer is refused), `wait_s` (for each answer), `samples` (what is drawn where more than one answer is asked for).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def answer(model: str, text: str = "fine") -> dict:
    """A completion in vLLM's shape, with log-probabilities."""
    tokens = [
        {
            "token": text,
            "logprob": -0.1,
            "bytes": list(text.encode()),
            "top_logprobs": [
                {"token": text, "logprob": -0.1, "bytes": list(text.encode())},
                {"token": "other", "logprob": -2.5, "bytes": list(b"other")},
            ],
        },
        {
            "token": "",
            "logprob": -0.3,
            "bytes": [],
            "top_logprobs": [
                {"token": "!", "logprob": -0.2, "bytes": [33]},
                {"token": "", "logprob": -0.3, "bytes": []},
            ],
        },
    ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None, "tool_calls": []},
                "logprobs": {"content": tokens},
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 11, "completion_tokens": 2},
    }


def main() -> None:
    options = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=False))
    wanted = json.loads((Path(options["--model"]) / "config.json").read_text()).get("fake", {})
    if "fails" in wanted:
        sys.exit(wanted["fails"])
    # The engine: a process that a killed server leaves behind.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    healthy_at = time.monotonic() + wanted.get("slow_s", 0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200 if time.monotonic() >= healthy_at else 503, {})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(wanted.get("wait_s", 0))
            well = asked["model"] == options["--served-model-name"]
            text = "\n".join(one["content"] for one in asked["messages"])
            if len(text) > wanted.get("longest", 1_000_000):
                self._say(400, {"error": {"message": "longer than the context of this model"}})
                return
            text = text if wanted.get("echo") else wanted.get("says", "fine")
            said = answer(asked["model"], text) if well else {"error": {"message": "no such model"}}
            if well and asked.get("n", 1) > 1:
                texts = wanted.get("samples", [text] * asked["n"])
                said["choices"] = [answer(asked["model"], one)["choices"][0] for one in texts]
            self._say(200 if well else 404, said)

        def _say(self, status: int, body: dict) -> None:
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
