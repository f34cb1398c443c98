"""`stillhouse demo`: the whole loop on one machine, on a generated sample or on the user's own messages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli._common import console, fail

HOME = Path(".stillhouse/demo")
WRITING_HOME = Path(".stillhouse/demo-llm")


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Your labelled messages: .jsonl, .jsonl.gz or .csv with text, label and optionally domain."),
    ] = None,
    home: Annotated[Path, typer.Option(help="The demo's own folder; it is emptied at the start.")] = HOME,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running at the end.")] = False,
    rate: Annotated[float, typer.Option(min=1, max=2000, help="Requests a second.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the sample, of what arrives late, and of the order.")] = 0,
) -> None:
    """Play traffic until a student is live, change the traffic, see it drift and recover; write a report."""
    import logging

    from aiokafka.errors import KafkaError

    from stillhouse.demo.data import DataError
    from stillhouse.demo.run import Options, run_demo
    from stillhouse.embedded.broker import EmbeddedError

    # What the client library would log is said by a sentence.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        code = run_demo(Options(home=home, data=data, keep=keep, rate=rate, seed=seed), console())
    except (EmbeddedError, DataError) as error:
        fail(str(error))
    except (KafkaError, ConnectionError) as error:
        fail(f"The log went away while the demo ran ({type(error).__name__}); see {home / 'logs'}.")
    except OSError as error:
        fail(f"{error.filename or home} cannot be written ({error.strerror}); free some space or name another --home.")
    except KeyboardInterrupt:
        fail("Stopped.", 130)
    sys.exit(code)


def demo_llm(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your recorded answers: .jsonl or .jsonl.gz with input and output, or a folder with a train file."
        ),
    ] = None,
    home: Annotated[Path, typer.Option(help="The demo's own folder; it is emptied at the start.")] = WRITING_HOME,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running at the end.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sample, and of the order.")] = 0,
    taught: Annotated[
        int | None, typer.Option(min=200, help="Recorded answers to teach; more are better and take longer.")
    ] = None,
) -> None:
    """Teach a small language model recorded answers, prove it, and let it serve through vLLM; write a report."""
    import logging

    from aiokafka.errors import KafkaError

    from stillhouse.demo.data import DataError
    from stillhouse.demo.writing.run import Options, run_writing_demo
    from stillhouse.demo.writing.source import Sizing
    from stillhouse.embedded.broker import EmbeddedError
    from stillhouse.models.port import ModelError

    # What the client library would log is said by a sentence.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        options = Options(home=home, data=data, keep=keep, seed=seed, sizing=Sizing(taught=taught))
        code = run_writing_demo(options, console())
    except (EmbeddedError, DataError, ModelError) as error:
        fail(str(error))
    except (KafkaError, ConnectionError) as error:
        fail(f"The log went away while the demo ran ({type(error).__name__}); see {home / 'logs'}.")
    except OSError as error:
        fail(f"{error.filename or home} cannot be written ({error.strerror}); free some space or name another --home.")
    except KeyboardInterrupt:
        fail("Stopped.", 130)
    sys.exit(code)
