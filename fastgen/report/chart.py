"""Charts as inline SVG. Colours are classes, so that the page's light and dark styles both fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from fastgen.report.formatting import digits

WIDTH, HEIGHT = 380, 232
LEFT, RIGHT, TOP, BOTTOM = 54, 24, 12, 40
LOG_RANGE = 30.0
"""Positive values that span more than this factor get a logarithmic axis."""
COLOURS = 8


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        label: Shown when the pointer rests on a point.
        points: (x, y) in order of x.
        colour: Number of the run, -1 for the teacher's grey.
        line: Whether points are joined.
        marks: Whether points are drawn.
        level: Draw the (single) y as a dashed line across the chart.
        shape: ``dot`` or ``ring``.
        end: Written after the last point.
        shift: Pixels to the right, so that equal points of several runs stay visible.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int
    line: bool = True
    marks: bool = True
    level: bool = False
    shape: str = "dot"
    end: str = ""
    shift: float = 0.0


def colour_class(colour: int) -> str:
    """``c3``; ``ct`` for the teacher."""
    return "ct" if colour < 0 else f"c{colour % COLOURS}"


@dataclass(frozen=True)
class Axis:
    """A range of numbers and where they are drawn."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def linear_axis(low: float, high: float, about: int = 4) -> Axis:
    """An axis from round number to round number."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, False, tuple(round(k * step, 12) for k in range(first, last + 1)))


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis with ticks at powers of ten, and 2 and 5 times them if the range is short."""
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 2.5 else (1, 3) if decades < 3.5 else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    every = 1 if decades < 6 else 2 if decades < 12 else math.ceil(decades / 5)
    ticks = [m * 10.0**p for p in powers for m in steps if p % every == 0]
    low, high = low / 1.15, high * 1.15
    return Axis(low, high, True, tuple(tick for tick in ticks if low <= tick <= high))


def calls_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis whose ticks are the numbers of network calls that occur."""
    known = sorted(set(values))
    kept: list[float] = []
    for value in known:
        if not kept or value / kept[-1] > 1.25:
            kept.append(value)
    return Axis(known[0] / 1.3, known[-1] * 1.3, True, tuple(kept))


def y_axis(values: Sequence[float], log: bool) -> Axis:
    """The axis that fits: logarithmic, if that is allowed, for positive values over a wide range."""
    low, high = min(values), max(values)
    if log and low > 0 and high / low > LOG_RANGE:
        return log_axis(low, high)
    if low > 0 and low < 0.6 * high:
        low = 0.0
    return linear_axis(low, high)


def text(value: float) -> str:
    """A tick label."""
    if value != 0 and abs(value) >= 10_000:
        exponent = math.floor(math.log10(abs(value)))
        for power, unit in ((9, "G"), (6, "M"), (3, "k")):
            if exponent >= power:
                return f"{digits(value / 10**power, 3)}{unit}"
    return digits(value, 3)


def chart(
    series: Sequence[Series],
    description: str,
    x_label: str,
    x_text: Callable[[float], str] = text,
    calls: bool = False,
    log: bool = True,
) -> str:
    """An SVG with axes, curves and a title on every point; empty if there is nothing to draw.

    Args:
        series: The curves.
        description: What a reader who does not see it is told.
        x_label: Name of the x axis.
        x_text: How x values are written at points and ticks.
        calls: The x axis counts network calls: logarithmic, ticks where points are.
        log: Let the y axis be logarithmic if the values ask for it.
    """
    drawn = [s for s in series if s.points]
    moving = [s for s in drawn if not s.level]
    if not moving:
        return ""
    xs = [x for s in moving for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points if math.isfinite(y)]
    if not ys:
        return ""
    x_axis = calls_axis(xs) if calls else linear_axis(0.0, max(xs))
    y_scale = y_axis(ys, log)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + x_axis.place(x) * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - y_scale.place(y) * (HEIGHT - TOP - BOTTOM), 1),
        )

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">']
    for tick in y_scale.ticks:
        _, y = at(x_axis.low, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{text(tick)}</text>')
    for tick in x_axis.ticks:
        x, _ = at(tick, y_scale.low)
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(x_text(tick))}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">')
    parts.append(f"{escape(x_label)}</text>")
    ends: list[tuple[float, float, str]] = []
    for s in sorted(drawn, key=lambda s: not s.level):
        colour = colour_class(s.colour)
        if s.level:
            _, y = at(x_axis.low, s.points[0][1])
            title = f"{s.label}: {digits(s.points[0][1])}"
            parts.append(f'<line class="level {colour}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}">')
            parts.append(f"<title>{escape(title)}</title></line>")
            continue
        places = [(px + s.shift, py) for px, py in (at(x, y) for x, y in s.points if math.isfinite(y))]
        if s.end and places:
            ends.append((*places[-1], s.end))
        if s.line and len(places) > 1:
            parts.append(f'<path class="curve {colour}" d="M{" ".join(f"{x},{y}" for x, y in places)}"/>')
        if s.marks:
            finite = [(x, y) for x, y in s.points if math.isfinite(y)]
            for (x, y), (px, py) in zip(finite, places, strict=True):
                title = f"{s.label}: {digits(y)} at {x_text(x)}"
                parts.append(f'<circle class="{s.shape} {colour}" cx="{px}" cy="{py}" r="{4 if s.line else 5.5}">')
                parts.append(f"<title>{escape(title)}</title></circle>")
    for x, y, words in merged_ends(ends):
        parts.append(f'<text x="{x + 7}" y="{y + 3.5}">{escape(words)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def merged_ends(ends: Sequence[tuple[float, float, str]], apart: float = 10.0) -> list[tuple[float, float, str]]:
    """Words after curves; those that would overprint each other share a place."""
    merged: list[tuple[float, float, str]] = []
    for x, y, words in sorted(ends, key=lambda end: end[1]):
        if merged and y - merged[-1][1] < apart and abs(x - merged[-1][0]) < 3 * apart:
            if words not in merged[-1][2].split(","):
                together = sorted([*merged[-1][2].split(","), words], key=lambda word: (len(word), word))
                merged[-1] = (*merged[-1][:2], ",".join(together))
        else:
            merged.append((x, y, words))
    return merged


def bars(rows: Sequence[tuple[str, float, int]], description: str, written: Callable[[float], str]) -> str:
    """Horizontal bars: (label, value, colour)."""
    if not rows:
        return ""
    pitch, left = 34, 8
    height = pitch * len(rows) + 6
    top = max(value for _, value, _ in rows) or 1.0
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">']
    for i, (label, value, colour) in enumerate(rows):
        y = pitch * i + 14
        width = round(max(value / top, 0.004) * (WIDTH - 2 * left), 1)
        parts.append(f'<text x="{left}" y="{y - 2}">{escape(label)}</text>')
        parts.append(f'<text x="{WIDTH - left}" y="{y - 2}" text-anchor="end">{escape(written(value))}</text>')
        parts.append(
            f'<rect class="bar {colour_class(colour)}" x="{left}" y="{y + 3}" width="{width}" height="10" rx="2"/>'
        )
    parts.append("</svg>")
    return "".join(parts)


def cloud(points: Sequence[tuple[float, float]], hues: Sequence[int], limit: float, description: str) -> str:
    """Points in a square from -``limit`` to ``limit``; ``hues`` (0 to 11) colours equal seeds equally."""
    side = 240
    paths: dict[int, list[str]] = {}
    for (x, y), hue in zip(points, hues, strict=True):
        px, py = (x / limit + 1) / 2 * side, (1 - y / limit) / 2 * side
        paths.setdefault(hue, []).append(f"M{px:.1f} {py:.1f}h0")
    parts = [f'<svg class="cloud" viewBox="0 0 {side} {side}" role="img" aria-label="{escape(description)}">']
    parts.append(f'<path class="grid" d="M0 {side / 2}H{side}M{side / 2} 0V{side}"/>')
    parts += [f'<path class="points h{hue}" d="{"".join(paths[hue])}"/>' for hue in sorted(paths)]
    parts.append("</svg>")
    return "".join(parts)
