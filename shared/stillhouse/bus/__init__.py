"""The log: connections, topics, CloudEvents, and what may be committed."""

from stillhouse.bus.cloudevents import BadRecord, Record, TooLarge, decode, encode, header, new_traceparent
from stillhouse.bus.connection import client_options, consumer_options, declare_topics, producer_options
from stillhouse.bus.watermark import LowWaterMark

__all__ = [
    "BadRecord",
    "LowWaterMark",
    "Record",
    "TooLarge",
    "client_options",
    "consumer_options",
    "declare_topics",
    "decode",
    "encode",
    "header",
    "new_traceparent",
    "producer_options",
]
