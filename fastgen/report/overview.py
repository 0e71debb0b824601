"""Overview: one card per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastgen.report.chart import colour_class
from fastgen.report.formatting import calls, digits, duration, times
from fastgen.report.html import Runs, label_of
from fastgen.report.run import Run, amount, part
from fastgen.report.summary import Final
from fastgen.results.kinds import headline
from fastgen.results.rows import is_student


def cards(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> str:
    """One card per run: what it is, how it ended, what to trust."""
    return f"<div class='cards'>{''.join(card(i, run, rows[run.name]) for i, run in runs)}</div>"


def card(colour: int, run: Run, rows: Sequence[Final]) -> str:
    """The card of a run."""
    teacher = next((row for row in rows if row.role == "teacher"), None)
    students = [row for row in rows if is_student(row.role)]
    student = next((row for row in students if row.values), None)
    facts: list[tuple[str, str]] = []
    if students:
        reach = ", ".join(dict.fromkeys(str(row.nfe) for row in students if row.nfe is not None))
        one = students[0].nfe == 1 and len(students) == 1
        told = f"{reach} call{'' if one else 's'}"
        facts.append(("network calls", f"{teacher.nfe} → {told}" if teacher is not None and teacher.nfe else told))
    if student is not None:
        at = f" at {calls(student.nfe)}" if len(students) > 1 else ""
        for name in headline(student.values, student.kinds):
            if name is not None:
                ratio = times(student.ratios.get(name))
                value = f"<strong>{digits(student.values[name])}</strong>"
                facts.append(
                    (
                        label_of(name, student.kinds[name]) + at,
                        value + (f" <small>{ratio} teacher</small>" if ratio else ""),
                    )
                )
    seconds = amount(run.throughput.get("training_seconds"))
    seconds = seconds or max((row.training_seconds or 0.0 for row in students), default=0.0) or None
    trained = f"{run.student_updates:,} updates" + (f" in {duration(seconds)}" if seconds else "")
    facts.append(("training", trained))
    if device := run.throughput.get("device"):
        processes = run.throughput.get("processes")
        several = f"{processes} x " if isinstance(processes, int) and processes > 1 else ""
        facts.append(("device", escape(f"{several}{device}, {run.throughput.get('precision', '')}".rstrip(", "))))
    facts.append(("health", health_word(run)))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts)
    notes = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems)
    return (
        f"<article class='card {colour_class(colour)}'><h3>{escape(run.name)}"
        f"{f'<span class=badge>{escape(run.method)}</span>' if run.method else ''}</h3><dl>{listed}</dl>"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}</article>"
    )


def health_word(run: Run) -> str:
    """One word on the health monitor's findings."""
    if run.events:
        return f"<span class='badge warn'>{len(run.events)} event{'s' if len(run.events) > 1 else ''}</span>"
    if has_callback(run.config, "Health"):
        return "<span class='badge good'>no events</span>"
    return "<span class='badge'>not monitored</span>"


def has_callback(config: Mapping[str, Any], name: str) -> bool:
    """Whether a callback of this class is configured."""
    callbacks = part(config, "trainer").get("callbacks")
    listed = callbacks if isinstance(callbacks, list) else []
    return any(isinstance(c, Mapping) and str(c.get("class_path", "")).endswith(name) for c in listed)
