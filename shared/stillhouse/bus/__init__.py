"""The log: connections, topics, CloudEvents, what may be committed, and how services stand on it."""

from typing import TYPE_CHECKING, Any

from stillhouse.bus.cloudevents import BadRecord, Record, TooLarge, decode, encode, header, new_traceparent
from stillhouse.bus.connection import (
    client_options,
    commit_as_member_only,
    consumer_options,
    declare_topics,
    producer_options,
)
from stillhouse.bus.watermark import LowWaterMark

if TYPE_CHECKING:
    from stillhouse.bus.broker import consumption_of, decode_batch, make_broker, publish, subscriber_options
    from stillhouse.bus.handling import Unprocessable

__all__ = [
    "BadRecord",
    "LowWaterMark",
    "Record",
    "TooLarge",
    "Unprocessable",
    "client_options",
    "commit_as_member_only",
    "consumer_options",
    "consumption_of",
    "declare_topics",
    "decode",
    "decode_batch",
    "encode",
    "header",
    "make_broker",
    "new_traceparent",
    "producer_options",
    "publish",
    "subscriber_options",
]

# FastStream costs most of a second to import: clients and the command line, which need none of it, do not pay.
_OF_SERVICES = {
    "Unprocessable": "handling",
    "consumption_of": "broker",
    "decode_batch": "broker",
    "make_broker": "broker",
    "publish": "broker",
    "subscriber_options": "broker",
}


def __getattr__(name: str) -> Any:
    if name in _OF_SERVICES:
        from importlib import import_module

        return getattr(import_module(f"stillhouse.bus.{_OF_SERVICES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
