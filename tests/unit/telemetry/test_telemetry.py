"""Metrics, health, logs and traces: what a scraper, a probe and a reader of files see."""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import UTC, datetime

import httpx
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prometheus_client import CollectorRegistry

from stillhouse.settings import Telemetry
from stillhouse.telemetry import names
from stillhouse.telemetry.http import HttpServer, PortTaken
from stillhouse.telemetry.logs import configure_logging
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import JsonLinesExporter, span_context_of, traceparent_of


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_metrics_are_built_once_per_registry(registry) -> None:
    assert metrics(registry) is metrics(registry)
    assert metrics(CollectorRegistry()) is not metrics(registry)


def test_every_metric_name_is_exposed_as_written_in_names(registry) -> None:
    m = metrics(registry)
    m.requests.labels("default/t", "student", "student", "ok").inc()
    m.set_stage("default/t", "canary")
    declared = {value for name, value in vars(names).items() if str(value).startswith("stillhouse_")}
    exposed = set()
    for family in registry.collect():
        exposed.add(family.name + ("_total" if family.type == "counter" else ""))
    assert exposed == declared
    value = registry.get_sample_value(
        names.REQUESTS, {"task": "default/t", "served_by": "student", "reason": "student", "status": "ok"}
    )
    assert value == 1.0


def test_a_task_is_in_one_stage_at_a_time(registry) -> None:
    m = metrics(registry)
    m.set_stage("default/t", "shadow")
    m.set_stage("default/t", "live")
    stages = {
        stage: registry.get_sample_value(names.ROUTE_STAGE, {"task": "default/t", "stage": stage})
        for stage in ("teacher", "shadow", "canary", "live")
    }
    assert stages == {"teacher": 0.0, "shadow": 0.0, "canary": 0.0, "live": 1.0}
    with pytest.raises(ValueError, match="no stage 'gone'"):
        m.set_stage("default/t", "gone")


async def test_http_serves_metrics_and_health(registry) -> None:
    checks = {"kafka": True, "redis": False}

    async def ready() -> dict[str, bool]:
        return checks

    server = HttpServer("127.0.0.1", 0, lambda: True, ready, registry)
    metrics(registry).drift_alarms.labels("default/t").inc()
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as http:
            assert (await http.get("/health/live")).json() == {"live": True}
            first = await http.get("/health/ready")
            assert (first.status_code, first.json()) == (503, {"ready": False, "checks": checks, "pid": os.getpid()})
            checks["redis"] = True
            assert (await http.get("/health/ready")).status_code == 200
            page = await http.get("/metrics")
            assert 'stillhouse_drift_alarms_total{task="default/t"} 1.0' in page.text
    finally:
        await server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


async def test_a_check_that_raises_is_not_ready() -> None:
    async def ready() -> dict[str, bool]:
        raise ConnectionError("no broker")

    server = HttpServer("127.0.0.1", 0, lambda: False, ready)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as http:
            assert (await http.get("/health/ready")).json() == {
                "ready": False,
                "checks": {"ConnectionError": False},
                "pid": os.getpid(),
            }
            assert (await http.get("/health/live")).status_code == 503
    finally:
        await server.stop()


async def test_a_taken_port_is_named(free_tcp_port) -> None:
    async def ready() -> dict[str, bool]:
        return {}

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_tcp_port))
        taken.listen()
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{free_tcp_port} .*HTTP_PORT"):
            await HttpServer("127.0.0.1", free_tcp_port, lambda: True, ready).start()


@pytest.fixture
def clean_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_logs_are_json_lines_with_service_and_span(clean_logging, capsys) -> None:
    configure_logging(Telemetry(log_level="info"), "router")
    with TracerProvider().get_tracer("t").start_as_current_span("x") as span:
        structlog.get_logger().info("route changed", stage="live")
        logging.getLogger("elsewhere").warning("from the %s library", "standard")
    structlog.get_logger().debug("hidden")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["service"], first["level"], first["stage"]) == (
        "route changed",
        "router",
        "info",
        "live",
    )
    assert first["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert (second["event"], second["service"]) == ("from the standard library", "router")


def test_pretty_logs_have_no_colour_codes_off_a_terminal(clean_logging, capsys) -> None:
    configure_logging(Telemetry(log_format="pretty"), "router")
    structlog.get_logger().warning("slow", ms=5)
    said = capsys.readouterr().err
    assert "slow" in said
    assert "\x1b[" not in said


def test_spans_are_appended_as_json_lines_and_continue_across_a_traceparent(tmp_path) -> None:
    path = tmp_path / "traces" / "router.jsonl"
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(JsonLinesExporter(path)))
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span(names.SPAN_ROUTE, attributes={names.ATTR_TASK: "t"}) as parent:
        header = traceparent_of(parent)
        with tracer.start_as_current_span(names.SPAN_TEACHER_CALL):
            pass
    inner, outer = (json.loads(line) for line in path.read_text().splitlines())
    assert inner["parent_id"] == outer["span_id"]
    assert outer["attributes"] == {names.ATTR_TASK: "t"}
    continued = span_context_of(header)
    assert continued is not None
    assert format(continued.trace_id, "032x") == outer["trace_id"]
    assert span_context_of("nonsense") is None
    assert span_context_of(None) is None


def test_a_gate_is_open_since_a_time_or_not_there(registry) -> None:
    m = metrics(registry)
    labels = {"task": "default/t", "stage": "offline"}
    m.set_gate("default/t", "offline", None)
    m.set_gate("default/t", "offline", datetime(2026, 1, 1, tzinfo=UTC))
    assert registry.get_sample_value(names.GATE_OPEN_SINCE, labels) == 1767225600.0
    m.set_gate("default/t", "offline", None)
    assert registry.get_sample_value(names.GATE_OPEN_SINCE, labels) is None
    with pytest.raises(ValueError, match="no gate 'live'"):
        m.set_gate("default/t", "live", None)
