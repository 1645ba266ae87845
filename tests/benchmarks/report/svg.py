"""A small SVG: axes, bars, lines. It reads on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

import attrs

WIDTH: Final = 760
INK: Final = "#808080"
COLOURS: Final = ("#d1495b", "#2e86ab", "#5b8e3e", "#8f6bb3", "#d98b2b", "#3aa6a0", "#a0606e", "#6b7a8f", "#4d4d9a")
STYLE: Final = f'font-family="sans-serif" font-size="12" fill="{INK}"'


@attrs.frozen
class Scale:
    """Maps values to places, by their logarithms or as they are."""

    least: float
    most: float
    low: float
    high: float
    logarithmic: bool = True

    def at(self, value: float) -> float:
        """Return the place of *value*."""
        first, last, here = (self._measure(x) for x in (self.least, self.most, max(value, self.least)))
        return self.low + (here - first) / ((last - first) or 1) * (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values between the ends."""
        if self.logarithmic:
            powers = range(ceil(log10(self.least) - 1e-9), floor(log10(self.most) + 1e-9) + 1)
            return [10.0**power for power in powers]
        step = 10 ** floor(log10(self.most or 1))
        step = step / 2 if self.most / step < 4 else step
        return [step * count for count in range(floor(self.most / step) + 1)]

    def _measure(self, value: float) -> float:
        return log10(value) if self.logarithmic else value


def decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten around *values*."""
    return 10.0 ** floor(log10(min(values))), 10.0 ** ceil(log10(max(values)))


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = INK) -> str:
    """Return a piece of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" style="fill:{colour}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a faint straight line."""
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{INK}" stroke-opacity="0.3"/>'


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a bar."""
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{max(1, width):.0f}" height="{height:.0f}" fill="{colour}"/>'


def curve(points: Sequence[tuple[float, float]], colour: str) -> str:
    """Return a line through *points*."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def short(value: float) -> str:
    """Return *value* in few characters."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def page(title: str, height: float, parts: Sequence[str]) -> str:
    """Return the whole image."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" {STYLE}>'
    return "\n".join(
        [head, f"<title>{escape(title)}</title>", text(WIDTH / 2, 18, title, "middle"), *parts, "</svg>", ""]
    )
