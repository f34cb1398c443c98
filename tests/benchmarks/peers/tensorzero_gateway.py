"""TensorZero's embedded gateway, as its documentation starts it: its OpenAI-compatible server inside this process.

`python tensorzero_gateway.py SETTINGS`: writes the server's base URL and serves until SIGTERM.
"""

from __future__ import annotations

import signal
import sys

from openai import OpenAI
from tensorzero import patch_openai_client


def main() -> None:
    """Start, say where, wait."""
    client = patch_openai_client(OpenAI(api_key="none"), config_file=sys.argv[1], async_setup=False)
    print(client.base_url, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
