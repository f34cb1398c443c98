"""Reports: well-formed, without scripts, and honest about what is not there."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from stillhouse.events import Condition
from stillhouse.quality.figures import _ticks, bounds_figure, path_figure, reliability_figure
from stillhouse.quality.page import page, table

CONDITIONS = [
    Condition(
        name="agreement", verdict="passed", floor=0.95, estimate=0.98, lower=0.96, upper=0.99, n=600, evidence=80
    ),
    Condition(name="recall of <b>", verdict="undecided", floor=0.8, n=0, needs_more=120, costs_usd=0.24),
    Condition(name="pays", verdict="passed", floor=0.0, estimate=140.0, lower=120.0, upper=150.0, n=600),
    Condition(name="hallucination", verdict="failed", ceiling=0.04, estimate=0.2, lower=0.1, upper=0.3, n=50),
]


def svgs(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_a_page_shows_every_condition_and_runs_nothing() -> None:
    figures = [
        path_figure("Agreement", [("lower", [(1, 0.5), (9, 0.9)]), ("upper", [(1, 1.0), (9, 1.0)])], 0.95, 0.8, 1.0),
        reliability_figure([(0.2, 0.3, 5), (0.9, 0.95, 100)]),
    ]
    html = page("Gate", "failed", ["Because."], CONDITIONS, {"student": "<s1>"}, figures=figures)
    assert "<script" not in html
    assert "recall of &lt;b&gt;" in html
    assert "&lt;s1&gt;" in html
    assert "120 cases, $0.24" in html
    bounds, path, reliability = svgs(html)
    assert len(bounds.findall("{*}circle") or bounds.findall("circle")) == 2  # what has a share to show
    assert len(path.findall("polyline")) == 3
    assert len(reliability.findall("circle")) == 2


def test_nothing_measured_is_nothing_drawn() -> None:
    assert bounds_figure([]) == path_figure("t", [("lower", [])], None, 0, 1) == reliability_figure([]) == ""
    assert table("t", ("a",), []) == ""


@given(st.floats(-100, 100), st.floats(0.001, 10_000))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    ticks = _ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-6 * span <= tick <= low + span + 1e-6 * span for tick in ticks)
    assert ticks == sorted(ticks)
