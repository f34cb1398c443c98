"""Small line plots as inline SVG: no scripts, no fonts, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from stillhouse.demo.figures import Curve, Moment

WIDTH: Final = 720
HEIGHT: Final = 250
LEFT: Final = 62
RIGHT: Final = 16
TOP: Final = 46
BOTTOM: Final = 36


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. `style` is a CSS class: `student`, `teacher`, `bound` or `level`."""

    name: str
    points: Curve
    style: str


def plot(
    title: str,
    lines: Sequence[Line],
    moments: Sequence[Moment],
    *,
    last: int,
    low: float | None = 0.0,
    high: float | None = None,
    show: Callable[[float], str] = lambda value: f"{value:g}",
    y_title: str = "",
) -> str:
    """A figure of `lines` over request numbers 0 to `last`, with vertical marks at `moments` and a legend.

    `low` and `high` fix the ends of the y axis; None: from the data. `show` writes a y value.
    """
    values = [y for line in lines for _, y in line.points]
    if not values:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>Nothing was measured.</p></figure>"
    bottom = min(values) if low is None else low
    ticks = _ticks(bottom, max(values) if high is None else high)
    bottom, top = min(bottom, ticks[0]), max(ticks[-1], high or ticks[-1])

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / max(1, last)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - bottom) / ((top - bottom) or 1.0)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(show(tick))}</text>')
    for tick in _ticks(0, last):
        if tick <= last:
            at = f'x="{x_of(tick):.1f}" y="{HEIGHT - BOTTOM + 16}"'
            parts.append(f'<text class="tick" {at} text-anchor="middle">{tick:,.0f}</text>')
    parts += _marks(moments, x_of)
    for line in lines:
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        name = f"<title>{escape(line.name)}</title>"
        if len(line.points) == 1:
            x, y = line.points[0]
            parts.append(
                f'<circle class="dot {line.style}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2">{name}</circle>'
            )
        else:
            parts.append(f'<polyline class="line {line.style}" points="{points}">{name}</polyline>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">requests</text></svg>')
    named = {line.name: line.style for line in lines}
    legend = "".join(f'<span class="key {style}">{escape(name)}</span>' for name, style in named.items())
    unit = f" <small>{escape(y_title)}</small>" if y_title else ""
    return (
        f"<figure><figcaption>{escape(title)}{unit}</figcaption>{''.join(parts)}<p class='legend'>{legend}</p></figure>"
    )


def _marks(moments: Sequence[Moment], x_of: Callable[[float], float]) -> list[str]:
    parts = []
    ends = [0.0, 0.0]  # how far right the labels of each of the two rows reach
    for moment in moments:
        x = x_of(moment.at)
        width = 5.6 * len(moment.name)
        row = 0 if x >= ends[0] else 1 if x >= ends[1] else ends.index(min(ends))
        begins = min(max(x, ends[row]), WIDTH - width)
        ends[row] = begins + width + 6
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="note" x="{begins:.1f}" y="{14 + 14 * row}">{escape(moment.name)}</text>'
        )
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round values from at most `low` to at least `high`, about five of them."""
    span = high - low
    if span <= 0:
        return [low, low + 1.0]
    raw = span / 4
    size = 10 ** math.floor(math.log10(raw))
    step = size * next(factor for factor in (1, 2, 2.5, 5, 10) if raw <= factor * size * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]
