"""The figures of a gate's report as inline SVG: no scripts, no fonts, colours from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from stillhouse.events import Condition

WIDTH: Final = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 12, 30

Points = Sequence[tuple[float, float]]


def bounds_figure(conditions: Sequence[Condition]) -> str:
    """Each condition that is a share: a bar between bounds, a dot for the estimate, a line for what it must reach."""
    shown = [one for one in conditions if _is_share(one)]
    if not shown:
        return ""
    row, left = 26, 220
    height = row * len(shown) + _BOTTOM
    low = min(0.98, *(value for one in shown for value in _values(one)))
    low = max(-1.0, low - 0.02)

    def x_of(value: float) -> float:
        return left + (WIDTH - left - _RIGHT) * (value - low) / (1.0 - low)

    parts = [_open(height, "Bounds of the conditions")]
    for place, one in enumerate(shown):
        y = row * place + row / 2
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{escape(one.name[:34])}</text>'
        )
        if one.lower is not None and one.upper is not None:
            begin, end = x_of(max(low, one.lower)), x_of(min(1.0, one.upper))
            parts.append(f'<line class="bar {one.verdict}" x1="{begin:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}"/>')
        if one.estimate is not None:
            parts.append(f'<circle class="dot" cx="{x_of(one.estimate):.1f}" cy="{y}" r="4"/>')
        wanted = one.floor if one.floor is not None else one.ceiling
        if wanted is not None:
            x = x_of(wanted)
            parts.append(f'<line class="level" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9}" y2="{y + 9}"/>')
    for tick in _ticks(low, 1.0):
        at = f'x="{x_of(tick):.1f}" y="{height - 8}"'
        parts.append(f'<text class="tick" {at} text-anchor="middle">{tick:.3g}</text>')
    return _figure(
        "What was found, and how sure it is",
        "".join(parts) + "</svg>",
        "bar: bounds; dot: estimate; line: floor or ceiling",
    )


def path_figure(
    title: str, lines: Sequence[tuple[str, Points]], level: float | None, y_low: float, y_high: float
) -> str:
    """Lines over the number of cases, `(name, points)`; a name is also a style class. `level` is drawn across."""
    points = [point for _, line in lines for point in line]
    if not points:
        return ""
    height, last = 240, max(x for x, _ in points) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (WIDTH - _LEFT - _RIGHT) * x / last
        down = height - _BOTTOM - (height - _TOP - _BOTTOM) * (min(y_high, max(y_low, y)) - y_low) / (y_high - y_low)
        return f"{across:.1f},{down:.1f}"

    parts = [_open(height, title)]
    for tick in _ticks(y_low, y_high):
        down = place(0, tick).split(",")[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{float(down) + 4:.1f}" text-anchor="end">{tick:.3g}</text>'
        )
    for tick in _ticks(0.0, last):
        if tick <= last:
            across = place(tick, y_low).split(",")[0]
            parts.append(f'<text class="tick" x="{across}" y="{height - 10}" text-anchor="middle">{tick:,.4g}</text>')
    if level is not None:
        parts.append(f'<polyline class="level" points="{place(0, level)} {place(last, level)}"/>')
    for name, line in lines:
        parts.append(f'<polyline class="line {name}" points="{" ".join(place(x, y) for x, y in line)}"/>')
    legend = "; ".join(name for name, _ in lines) + ("; dashed: what must be reached" if level is not None else "")
    return _figure(title, "".join(parts) + "</svg>", legend)


def reliability_figure(bins: Sequence[tuple[float, float, int]]) -> str:
    """Mean confidence against agreement of each bin (confidence, agreement, cases), beside the diagonal."""
    if not bins:
        return ""
    size, most = 260, max(count for _, _, count in bins)
    inner = size - _LEFT - _RIGHT

    def at(value: float) -> float:
        return _LEFT + inner * value

    parts = [f'<svg viewBox="0 0 {size} {size}" style="max-width:20rem" role="img" aria-label="Reliability">']
    parts.append(f'<line class="level" x1="{at(0)}" y1="{size - at(0)}" x2="{at(1)}" y2="{size - at(1)}"/>')
    for confidence, agreement, count in bins:
        radius = 2 + 6 * (count / most) ** 0.5
        parts.append(
            f'<circle class="dot" cx="{at(confidence):.1f}" cy="{size - at(agreement):.1f}" r="{radius:.1f}"/>'
        )
    for tick in (0.0, 0.5, 1.0):
        parts.append(
            f'<text class="tick" x="{at(tick):.0f}" y="{size - _LEFT + 18}" text-anchor="middle">{tick:g}</text>'
        )
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{size - at(tick) + 4:.0f}" text-anchor="end">{tick:g}</text>'
        )
    return _figure(
        "Confidence (across) and agreement (up)", "".join(parts) + "</svg>", "one dot a bin, larger for more cases"
    )


def _is_share(one: Condition) -> bool:
    return (
        one.name != "pays" and one.n > 0 and bool(_values(one)) and all(-1.0 <= value <= 1.0 for value in _values(one))
    )


def _values(one: Condition) -> list[float]:
    return [value for value in (one.estimate, one.lower, one.upper, one.floor, one.ceiling) if value is not None]


def _open(height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'


def _figure(title: str, svg: str, legend: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}<p><small>{escape(legend)}</small></p></figure>"


def _ticks(low: float, high: float) -> list[float]:
    """Round values between `low` and `high`, three to six of them."""
    span = high - low
    for step in (s * 10.0**power for power in range(-4, 8) for s in (1, 2, 5)):
        if span / step <= 6:
            first = -int(-low // step) if low > 0 else int(low / step)
            return [round(place * step, 10) for place in range(first, first + 8) if low <= place * step <= high + 1e-9]
    return [low, high]
