"""The gate's report as one self-contained HTML page: the verdict, its conditions, and how often labels were missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from services.validator.offline import Judgement, Outcome

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2430}
table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{border-bottom:1px solid #d8dde6;padding:.35rem .6rem;
text-align:left}.passed{color:#0a7a3d}.failed{color:#b3261e}.undecided{color:#8a6100}small{color:#5b6472}
"""


def render(
    facts: Mapping[str, object], judgement: Judgement, outcomes: Sequence[Outcome], threshold: float, promise: str
) -> str:
    """The page. `facts` are shown as they are, in order; no input text is on it."""
    conditions = "".join(
        f"<tr><td>{escape(c.name)}</td><td class='{c.verdict}'>{c.verdict}</td><td>{_number(c.floor)}</td>"
        f"<td>{_number(c.estimate)}</td><td>{_number(c.lower)} – {_number(c.upper)}</td><td>{c.n}</td>"
        f"<td><small>{escape(c.note)}</small></td></tr>"
        for c in judgement.conditions
    )
    lost = Counter(o.teacher for o in outcomes if o.loss(threshold))
    asked = Counter(o.teacher for o in outcomes)
    labels = "".join(
        f"<tr><td>{escape(label)}</td><td>{count}</td><td>{asked[label]}</td></tr>"
        for label, count in lost.most_common(15)
    )
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    head = "<tr><th>teacher's label</th><th>losses</th><th>cases</th></tr>"
    table = f"<h2>Labels with losses</h2><table>{head}{labels}</table>"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Gate report</title><style>{_STYLE}</style>"
        f"<h1>Offline gate: <span class='{judgement.verdict}'>{judgement.verdict}</span></h1>"
        f"<p>{escape(judgement.reason)}.</p><p>The promise: {promise}</p>"
        "<table><tr><th>condition</th><th>verdict</th><th>floor</th><th>estimate</th><th>bounds</th><th>cases</th>"
        f"<th></th></tr>{conditions}</table><table>{rows}</table>{table if labels else ''}</html>\n"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"
