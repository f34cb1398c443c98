"""Logs: JSON lines for machines, colours for a person. Inputs, outputs and keys are never logged."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog
from opentelemetry import trace

from stillhouse.settings import Telemetry


def configure_logging(telemetry: Telemetry, service: str) -> None:
    """Send structlog's and the standard library's records to stderr as `telemetry` asks.

    Every line carries `time` (RFC 3339, UTC), `level`, `service`, and the ids of the current span where there is one.
    Safe to repeat; the last call holds.
    """
    level = logging.getLevelNamesMapping()[telemetry.log_level.upper()]

    def named(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        named,
        _span_ids,
    ]
    end: list[structlog.typing.Processor]
    if telemetry.log_format == "json":
        end = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        end = [structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="time")]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Chatty at info; what they say at warning is worth a line.
    for name in ("aiokafka", "httpx", "httpcore", "uvicorn", "uvicorn.access", "faststream", "opentelemetry"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _span_ids(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event
