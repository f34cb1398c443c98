"""`stillhouse docs`: the contract that any Kafka client in any language can be written against."""

from __future__ import annotations

import json

import typer


def docs() -> None:
    """Print the AsyncAPI document: topics, keys, headers and the JSON Schema of every event."""
    from stillhouse.bus.asyncapi import document

    typer.echo(json.dumps(document(), indent=1, ensure_ascii=False))
