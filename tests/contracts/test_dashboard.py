"""The dashboard is what its generator writes, and shows every metric there is."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from stillhouse.telemetry import names
from tests.contracts.promql import metric_names

FOLDER = Path(__file__).parents[2] / "deploy" / "dashboards"
KNOWN = {value for name, value in vars(names).items() if name.isupper() and str(value).startswith("stillhouse_")}
DASHBOARD = json.loads((FOLDER / "loop.json").read_text())
QUERIES = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]  # fmt: skip


def plain(expression: str) -> str:
    """As Prometheus gets it: Grafana puts the interval and the chosen tasks in."""
    return expression.replace("$__rate_interval", "1m").replace("$task", ".*")


def test_it_is_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (FOLDER / "loop.json").read_text() == generate.text(), "run `python deploy/dashboards/generate.py`"


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_reads_metrics_that_exist(title, expression) -> None:
    used = {name.removesuffix("_bucket") for name in metric_names(plain(expression))}
    assert used
    assert used <= KNOWN


def test_every_metric_is_shown() -> None:
    shown = {name.removesuffix("_bucket") for _, query in QUERIES for name in metric_names(plain(query))}
    assert shown == KNOWN


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_the_source_is_the_one_that_compose_provides() -> None:
    provided = (FOLDER.parent / "docker" / "grafana-datasource.yml").read_text()
    assert set(re.findall(r'"uid": "([^"]+)"', json.dumps(DASHBOARD))) == {"stillhouse-loop", "prometheus"}
    assert "uid: prometheus" in provided
