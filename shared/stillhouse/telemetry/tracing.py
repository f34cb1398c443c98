"""Traces: OpenTelemetry spans, sent by OTLP, appended to a file, or both."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanContext, TraceFlags, format_span_id, format_trace_id, set_tracer_provider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stillhouse.settings import Telemetry

_PROPAGATOR = TraceContextTextMapPropagator()


class JsonLinesExporter(SpanExporter):
    """Appends each span to a file as one JSON object a line: what the embedded profile has for a trace backend.

    Fields: `trace_id`, `span_id`, `parent_id`, `name`, `kind`, `service`, `start_ns`, `end_ns`, `status`,
    `attributes`, `links`, `events`. A file that cannot be written fails the export, never the caller.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append `spans` in one write, so that lines of several processes do not mix."""
        text = "".join(json.dumps(_as_json(span), default=str) + "\n" for span in spans)
        try:
            with self._lock:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab", buffering=0) as file:
                    file.write(text.encode())
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def configure_tracing(telemetry: Telemetry, service: str) -> TracerProvider:
    """The process's tracer provider. Where neither exporter is set nothing is recorded, and traces are passed on.

    Call `shutdown()` on it before the process ends: spans are exported in batches.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.namespace": "stillhouse"}))
    if telemetry.trace_file is not None:
        exporter = JsonLinesExporter(telemetry.trace_file)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    if telemetry.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_traces_url(telemetry.otlp_endpoint))))
    # A span that goes nowhere costs as much as one that is exported; without a provider there is only the context.
    if telemetry.trace_file is not None or telemetry.otlp_endpoint is not None:
        set_tracer_provider(provider)  # the first call in a process holds; later ones only warn
    return provider


def traceparent_of(span: Span) -> str | None:
    """The W3C `traceparent` that continues `span`'s trace; None where the span is not recorded anywhere."""
    context: SpanContext = span.get_span_context()
    if not context.is_valid:
        return None
    sampled = "01" if context.trace_flags & TraceFlags.SAMPLED else "00"
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{sampled}"


def span_context_of(traceparent: str | None) -> SpanContext | None:
    """What a `traceparent` names, for a link or a remote parent; None where it is missing or malformed."""
    from opentelemetry.trace import get_current_span

    if not traceparent:
        return None
    found = get_current_span(_PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
    return found if found.is_valid and found.is_remote else None


def _traces_url(endpoint: str) -> str:
    return endpoint if endpoint.rstrip("/").endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"


def _as_json(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    return {
        "trace_id": format_trace_id(context.trace_id) if context else None,
        "span_id": format_span_id(context.span_id) if context else None,
        "parent_id": format_span_id(span.parent.span_id) if span.parent else None,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": span.resource.attributes.get("service.name"),
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name.lower(),
        "attributes": dict(span.attributes or {}),
        "links": [
            {"trace_id": format_trace_id(link.context.trace_id), "span_id": format_span_id(link.context.span_id)}
            for link in span.links
        ],
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
            for event in span.events
        ],
    }
