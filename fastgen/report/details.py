"""Cost, training signals, settings, events of the health monitor, and how numbers were made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastgen.report.chart import Series, bars, chart
from fastgen.report.differences import MISSING, differences, written
from fastgen.report.formatting import digits, duration
from fastgen.report.html import Runs, legend, swatch
from fastgen.report.overview import has_callback
from fastgen.report.run import amount
from fastgen.report.scalars import Curve, thinned
from fastgen.report.summary import Final


def cost(runs: Runs) -> str:
    """Throughput, memory and training time as bars."""
    wanted = (
        ("student updates per second", "student_updates_per_second", digits),
        ("samples per second", "samples_per_second", digits),
        ("peak memory per process", "peak_memory_gib", lambda value: f"{digits(value)} GiB"),
        ("training time", "training_seconds", duration),
    )
    figures = []
    for title, key, written_as in wanted:
        entries = [(run.name, value, i) for i, run in runs if (value := amount(run.throughput.get(key))) is not None]
        if entries:
            figures.append(f"<figure><figcaption>{title}</figcaption>{bars(entries, title, written_as)}</figure>")
    return f"<div class='charts'>{''.join(figures)}</div>" if figures else ""


def signals(runs: Runs, curves: Mapping[str, Mapping[str, Curve]]) -> str:
    """What the logger kept: losses, gradient norms, throughput, health; folded away."""
    names = dict.fromkeys(name for found in curves.values() for name in found if not name.startswith("eval/"))
    order = sorted(
        names, key=lambda name: (name.startswith(("throughput/", "health/", "lr")), name.endswith("grad_norm"))
    )
    figures = []
    for name in order:
        series = [
            Series(run.name, thinned(points), i, marks=len(points) < 12)
            for i, run in runs
            if (points := curves[run.name].get(name))
        ]
        svg = chart(series, f"{name} against student updates", "student updates")
        if svg:
            figures.append(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>")
    if not figures:
        return ""
    return (
        f"<details><summary>{len(figures)} charts of losses, gradient norms and speed</summary>"
        f"<div class='tools'>{legend(runs)}</div><div class='charts'>{''.join(figures)}</div></details>"
    )


def settings(runs: Runs) -> str:
    """What differs between the configurations; what only some of them have is folded away."""
    known = [(i, run) for i, run in runs if run.config]
    if len(known) < 2:
        return ""
    rows = differences([run.config for _, run in known])
    if not rows:
        return "<p>The configurations are equal.</p>"
    everywhere = [row for row in rows if MISSING not in row[1]]
    partly = [row for row in rows if MISSING in row[1]]
    shown = settings_table(known, everywhere) if everywhere else ""
    if not partly:
        return shown
    some = f"{len(partly)} setting{'s' if len(partly) > 1 else ''} that not all runs have"
    return f"{shown}<details><summary>{some}</summary>{settings_table(known, partly)}</details>"


def settings_table(runs: Runs, rows: Sequence[tuple[str, tuple[Any, ...]]]) -> str:
    """Settings by dotted key, a column per run."""
    head = "".join(f"<th scope='col'>{swatch(i)}{escape(run.name)}</th>" for i, run in runs)
    lines = "".join(
        f"<tr><th scope='row'><code>{escape(key)}</code></th>"
        f"{''.join(f'<td><code>{escape(written(value))}</code></td>' for value in values)}</tr>"
        for key, values in rows
    )
    return (
        f"<div class='scroll'><table class='settings'><thead><tr><th scope='col'>setting</th>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def events(runs: Runs) -> str:
    """What the health monitor found, each kind of event once with how often it came."""
    lines = []
    for i, run in runs:
        kinds: dict[str, list[Any]] = defaultdict(list)
        for event in run.events:
            kinds[event.kind].append(event)
        for kind, found in kinds.items():
            span = f"{found[0].student_updates:,}"
            if found[-1].student_updates != found[0].student_updates:
                span += f" to {found[-1].student_updates:,}"
            lines.append(
                f"<tr><th scope='row'>{swatch(i)}{escape(run.name)}</th><td>{escape(kind)}</td><td>{len(found)}</td>"
                f"<td>{span}</td><td class='text'>{escape(found[0].sentence)}</td></tr>"
            )
        if not kinds:
            told = "no events" if has_callback(run.config, "Health") else "not monitored (add the Health callback)"
            name = f"<th scope='row'>{swatch(i)}{escape(run.name)}</th>"
            lines.append(f"<tr>{name}<td colspan='4' class='text quiet'>{told}</td></tr>")
    head = "".join(f"<th scope='col'>{text}</th>" for text in ("run", "event", "times", "updates", "first message"))
    return (
        f"<div class='scroll'><table class='settings'><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>"
    )


def origins(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> str:
    """How the numbers were made."""
    lines = []
    for i, run in runs:
        prints = ", ".join(dict.fromkeys(m.fingerprint for m in run.measurements if m.fingerprint))
        counts = ", ".join(dict.fromkeys(f"{row.count:,}" for row in rows[run.name] if row.count))
        lines.append(
            f"<tr><th scope='row'>{swatch(i)}{escape(run.name)}</th><td>{counts}</td>"
            f"<td class='text'><code>{escape(prints)}</code></td></tr>"
        )
    head = "<th scope='col'>run</th><th scope='col'>samples</th><th scope='col'>measured with</th>"
    return (
        f"<div class='scroll'><table class='settings'><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>"
    )
