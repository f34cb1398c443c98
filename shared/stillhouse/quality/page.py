"""A gate's report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from stillhouse.events import Condition
from stillhouse.quality.figures import bounds_figure

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1d2430}
table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{border-bottom:1px solid #d8dde6;padding:.35rem .6rem;
text-align:left}.passed{color:#0a7a3d}.failed{color:#b3261e}.undecided{color:#8a6100}small{color:#5b6472}
figure{margin:1.5rem 0}figcaption{font-weight:600}svg{width:100%}.tick{font-size:11px;fill:#5b6472}
.grid{stroke:#e4e8ef}.level{stroke:#1d2430;stroke-dasharray:4 3;fill:none}.dot{fill:#1d2430}.bar{stroke-width:7;
stroke:#8fa3bf}.bar.passed{stroke:#7cc49b}.bar.failed{stroke:#e29a94}.bar.undecided{stroke:#dcbc7a}
.line{fill:none;stroke-width:1.6;stroke:#2b5fa8}.line.lower,.line.upper{stroke:#8fa3bf}.line.evidence{stroke:#0a7a3d}
"""

_HEADS = ("condition", "verdict", "floor", "ceiling", "estimate", "bounds", "cases", "evidence", "still needed", "")


def page(
    title: str,
    verdict: str,
    paragraphs: Sequence[str],
    conditions: Sequence[Condition],
    facts: Mapping[str, object],
    *,
    figures: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> str:
    """The page. `facts` are shown as they are, in order; `figures` and `tables` are HTML of this package's making."""
    rows = [
        [
            one.name,
            f"<span class='{one.verdict}'>{one.verdict}</span>",
            number(one.floor),
            number(one.ceiling),
            number(one.estimate),
            "" if one.lower is None and one.upper is None else f"{number(one.lower)} – {number(one.upper)}",
            str(one.n),
            number(one.evidence),
            needed(one),
            f"<small>{escape(one.note)}</small>",
        ]
        for one in conditions
    ]
    body = "".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    said = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}: <span class='{verdict}'>{verdict}</span></h1>{body}"
        + _rows(_HEADS, [[escape(row[0]), *row[1:]] for row in rows])
        + bounds_figure(conditions)
        + "".join(figures)
        + f"<table>{said}</table>"
        + "".join(tables)
        + "</html>\n"
    )


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A titled table of plain values; nothing where there are no rows."""
    if not rows:
        return ""
    return f"<h2>{escape(title)}</h2>" + _rows(heads, [[escape(str(value)) for value in row] for row in rows])


def number(value: float | None) -> str:
    """A figure as people read it."""
    return "" if value is None else f"{value:,.4g}"


def needed(one: Condition) -> str:
    """What an open condition still needs, and what that costs."""
    if one.verdict != "undecided" or one.needs_more is None:
        return ""
    return f"{one.needs_more:,} cases" + (f", ${one.costs_usd:,.2f}" if one.costs_usd is not None else "")


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
