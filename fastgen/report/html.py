"""Pieces of HTML that the parts of the page share."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from fastgen.report.chart import colour_class
from fastgen.report.run import Run
from fastgen.results.kinds import Kind

Runs = Sequence[tuple[int, Run]]
"""Runs with the numbers of their colours."""

ARROWS = {"lower": "↓", "higher": "↑", None: ""}
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", None: ""}


def section(anchor: str, title: str, lead: str, body: str) -> str:
    """A part of the page; nothing if it has no body."""
    if not body:
        return ""
    lead = f"<p class='lead'>{lead}</p>" if lead else ""
    head = f"<h2 id='{anchor}-title'>{title}</h2>{lead}"
    return f"<section id='{anchor}' aria-labelledby='{anchor}-title'>{head}{body}</section>"


def swatch(colour: int) -> str:
    """A dot in a run's colour."""
    return f"<span class='swatch {colour_class(colour)}' aria-hidden='true'></span>"


def legend(runs: Runs, teacher: str | None = None) -> str:
    """Names of runs beside their colours; ``teacher`` is drawn as a ``dash`` or a ``ring``."""
    items = [f"<li>{swatch(i)}{escape(run.name)}</li>" for i, run in runs]
    items += [f"<li><span class='swatch {teacher} ct' aria-hidden='true'></span>teacher</li>"] if teacher else []
    return f"<ul class='legend'>{''.join(items)}</ul>"


def label_of(name: str, kind: Kind) -> str:
    """A metric's name with the direction that is better."""
    return f"{name.replace('_', ' ')} {ARROWS[kind.better]}".strip()


def figure(name: str, body: str, kind: Kind) -> str:
    """A chart under a metric's name."""
    direction = DIRECTIONS[kind.better]
    hint = f"<small>{direction} {ARROWS[kind.better]}</small>" if direction else ""
    return f"<figure><figcaption>{escape(name.replace('_', ' '))}{hint}</figcaption>{body}</figure>"
