"""Plots of analyses and designs as one HTML file with inline SVG: no scripts, no fonts, nothing fetched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

COLOURS: Final = ("#4063d8", "#389826", "#cb3c33", "#9558b2", "#c77c02", "#5f6b7a")
STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "text{font:12px system-ui,sans-serif;fill:currentColor}line{stroke:#8888}"
    "@media(prefers-color-scheme:dark){body{background:#16181d;color:#e6e6e6}}"
)


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter plot; a `filled` one is on the Pareto front."""

    name: str
    x: float
    y: float
    filled: bool


def bars(title: str, rows: Sequence[tuple[str, str, float]], unit: str) -> str:
    """Horizontal bars as SVG: (name, kind, value); a kind has one colour."""
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    most = max((value for _, _, value in rows), default=1.0) or 1.0
    height = 20 * len(rows) + 50
    lines = [f'<svg viewBox="0 0 800 {height}" role="img" aria-label="{escape(title)}">']
    for i, (name, kind, value) in enumerate(rows):
        y, width = 20 * i + 30, 380 * value / most
        colour = COLOURS[kinds.index(kind) % len(COLOURS)]
        lines.append(f'<text x="290" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="300" y="{y}" width="{width:.1f}" height="15" fill="{colour}"/>')
        lines.append(f'<text x="{306 + width:.1f}" y="{y + 12}">{value:.3g} {escape(unit)}</text>')
    for i, kind in enumerate(kinds):
        x = 300 + 120 * i
        lines.append(f'<rect x="{x}" y="6" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>')
        lines.append(f'<text x="{x + 14}" y="15">{escape(kind)}</text>')
    return "".join([*lines, "</svg>"])


def scatter(title: str, dots: Sequence[Dot], x_title: str, y_title: str) -> str:
    """A scatter plot as SVG; x is logarithmic, and each dot has its name."""
    if not dots:
        return f"<p>{escape(title)}: nothing to show.</p>"
    xs, ys = [math.log10(max(dot.x, 1e-9)) for dot in dots], [dot.y for dot in dots]
    low, high = min(xs) - 0.1, max(xs) + 0.1
    margin = (max(ys) - min(ys)) * 0.1 or 0.01
    bottom, top = min(ys) - margin, max(ys) + margin
    lines = [f'<svg viewBox="0 0 800 420" role="img" aria-label="{escape(title)}">']
    lines.append('<line x1="70" y1="370" x2="780" y2="370"/><line x1="70" y1="20" x2="70" y2="370"/>')
    for i in range(5):
        value = bottom + (top - bottom) * i / 4
        lines.append(f'<text x="64" y="{374 - 350 * i / 4:.0f}" text-anchor="end">{value:.3g}</text>')
        lines.append(
            f'<text x="{70 + 177 * i}" y="388" text-anchor="middle">{10 ** (low + (high - low) * i / 4):.3g}</text>'
        )
    for dot, x in zip(dots, xs, strict=True):
        at_x, at_y = 70 + 710 * (x - low) / (high - low), 370 - 350 * (dot.y - bottom) / (top - bottom)
        fill = COLOURS[0] if dot.filled else "none"
        lines.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" fill="{fill}" stroke="{COLOURS[0]}"/>')
        anchor, offset = ("end", -8) if at_x > 600 else ("start", 8)
        lines.append(
            f'<text x="{at_x + offset:.1f}" y="{at_y - 6:.1f}" text-anchor="{anchor}">{escape(dot.name)}</text>'
        )
    lines.append(f'<text x="425" y="410" text-anchor="middle">{escape(x_title)}</text>')
    lines.append(f'<text x="20" y="12">{escape(y_title)}</text></svg>')
    return "".join(lines)


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write the plots and paragraphs as one page, at once. Raises `OSError`."""
    body = "".join(part if part.startswith("<") else f"<p>{escape(part)}</p>" for part in parts)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>{body}</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, path)
