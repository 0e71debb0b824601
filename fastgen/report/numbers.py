"""Numbers: the final table, curves during training, quality against network calls."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import isfinite

from fastgen.report.chart import Series, chart
from fastgen.report.formatting import calls, digits, duration, times
from fastgen.report.html import DIRECTIONS, Runs, figure, label_of, legend, swatch
from fastgen.report.run import Measurement, Run
from fastgen.report.summary import Final, incomparable
from fastgen.results.kinds import Kind, Kinds, headline, of_aspect, ordered
from fastgen.results.rows import is_student, kinds_of_all


def problems(runs: Sequence[Run]) -> list[tuple[str, Runs]]:
    """Runs whose numbers were measured in the same way, together, under what they were measured with."""
    groups: dict[tuple[str, ...], list[tuple[int, Run]]] = {}
    for i, run in enumerate(runs):
        prints = {m.fingerprint for m in run.measurements if not m.fingerprint.startswith("external:")}
        if run.measurements:
            groups.setdefault(tuple(sorted(prints)), []).append((i, run))
    names = [", ".join(map(shortened, prints)) or "external judges" for prints in groups]
    return list(zip(names, groups.values(), strict=True))


def shortened(fingerprint: str) -> str:
    """A fingerprint without its hashes."""
    return re.sub(r"/?sha256:\w+", "", fingerprint)


def per_problem(groups: Sequence[tuple[str, Runs]], make: Callable[[Runs], str]) -> str:
    """A part for each problem, under its name if there are several."""
    parts = [(name, made) for name, members in groups if (made := make(members))]
    if len(parts) == 1:
        return parts[0][1]
    return "".join(f"<h3 class='problem'>{escape(name)}</h3>{made}" for name, made in parts)


def final_table(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> str:
    """All final numbers; the best student of each column is bold."""
    listed = [(i, run, row) for i, run in runs for row in rows[run.name]]
    kinds = kinds_of_all(row.kinds for _, _, row in listed)
    names = ordered((name for _, _, row in listed for name in row.values if name != "count"), kinds)
    if not names:
        return ""
    notes = incomparable([row for _, _, row in listed])
    best = {} if notes else {name: best_of(name, kinds[name], [row for _, _, row in listed]) for name in names}
    head = "".join(
        f"<th scope='col' class='{kinds[name].aspect}' title='{DIRECTIONS[kinds[name].better]}'>"
        f"{escape(label_of(name, kinds[name]))}</th>"
        for name in names
    )
    lines = []
    for i, run, row in listed:
        cells = []
        for name in names:
            value = digits(row.values.get(name))
            ratio = times(row.ratios.get(name))
            strong = is_student(row.role) and best.get(name) is row
            shown = f"<strong>{value}</strong>" if strong else value
            cells.append(f"<td class='{kinds[name].aspect}'>{shown}{f'<small>{ratio}</small>' if ratio else ''}</td>")
        updates = f"{row.student_updates:,}" if is_student(row.role) else ""
        fixed = [escape(row.role), digits(row.nfe), updates, digits(row.count)]
        lines.append(
            f"<tr{'' if is_student(row.role) else ' class=teacher'}><th scope='row'>{swatch(i)}{escape(run.name)}</th>"
            f"{''.join(f'<td>{text}</td>' for text in fixed)}{''.join(cells)}</tr>"
        )
    fixed_head = "".join(f"<th scope='col'>{text}</th>" for text in ("run", "role", "calls", "updates", "samples"))
    told = "".join(f"<p class='notice'>{escape(note)}</p>" for note in notes)
    return (
        f"{told}<div class='scroll'><table class='numbers'><thead><tr>{fixed_head}{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def best_of(name: str, kind: Kind, rows: Sequence[Final]) -> Final | None:
    """The student's row with the best number, if there are several and a direction is better."""
    students = [row for row in rows if is_student(row.role) and name in row.values and isfinite(row.values[name])]
    if kind.better is None or len(students) < 2:
        return None
    chosen = (min if kind.better == "lower" else max)(students, key=lambda row: row.values[name])
    ties = sum(row.values[name] == chosen.values[name] for row in students)
    return chosen if ties == 1 else None


def shown_metrics(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> list[str]:
    """Metrics worth a chart, in the order of tables."""
    kinds = kinds_in(runs, rows)
    names = ordered((name for _, run in runs for row in rows[run.name] for name in row.values), kinds)
    return [name for name in names if kinds[name].aspect != "bookkeeping"]


def kinds_in(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> Kinds:
    """What the numbers of runs measure."""
    return kinds_of_all(row.kinds for _, run in runs for row in rows[run.name])


def metric_curves(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> str:
    """A chart per metric, against student updates and against training time."""
    figures, kinds = [], kinds_in(runs, rows)
    for name in shown_metrics(runs, rows):
        both = []
        for axis, label in (("updates", "student updates"), ("time", "training time")):
            series = levels(runs, rows, name)
            for i, run in runs:
                students = [row for row in rows[run.name] if is_student(row.role)]
                kept = {(row.role, row.nfe) for row in students if name in row.values}
                for role, nfe in dict.fromkeys((m.role, m.nfe) for m in run.measurements if is_student(m.role)):
                    if (role, nfe) not in kept:
                        continue
                    measured = [m for m in run.measurements if (m.role, m.nfe) == (role, nfe) and name in m.values]
                    points = sorted({(x_of(m, axis), m.values[name]) for m in measured})
                    end = str(nfe) if len(kept) > 1 else ""
                    series.append(Series(f"{run.name}, {role}, {calls(nfe)}", points, i, end=end))
            told = f"{name.replace('_', ' ')} against {label}"
            text = {"x_text": duration} if axis == "time" else {}
            svg = chart(series, told, label, log=kinds[name].better == "lower", **text)  # type: ignore[arg-type]
            both.append(f"<div class='by-{axis}'>{svg}</div>" if svg else "")
        if any(both):
            figures.append(figure(name, "".join(both), kinds[name]))
    if not figures:
        return ""
    switch = (
        "<div class='switch' role='group' aria-label='x axis'>"
        "<button type='button' data-x='updates' aria-pressed='true'>student updates</button>"
        "<button type='button' data-x='time' aria-pressed='false'>training time</button></div>"
    )
    return charts(runs, rows, "dash", figures, switch)


def charts(
    runs: Runs, rows: Mapping[str, Sequence[Final]], teacher: str, figures: Sequence[str], tools: str = ""
) -> str:
    """Charts below a legend in which the teacher, if there is one, is a ``dash`` or a ``ring``."""
    has_teacher = any(row.role == "teacher" for _, run in runs for row in rows[run.name])
    names = legend(runs, teacher if has_teacher else None)
    return f"<div class='tools'>{names}{tools}</div><div class='charts'>{''.join(figures)}</div>"


def x_of(measurement: Measurement, axis: str) -> float:
    """Student updates or seconds of training."""
    return float(measurement.student_updates) if axis == "updates" else measurement.training_seconds or 0.0


def levels(runs: Runs, rows: Mapping[str, Sequence[Final]], name: str) -> list[Series]:
    """The teachers' numbers as dashed lines, equal ones once."""
    found: dict[float, Series] = {}
    for _, run in runs:
        teacher = next((row for row in rows[run.name] if row.role == "teacher"), None)
        if teacher is not None and name in teacher.values:
            value = teacher.values[name]
            found.setdefault(value, Series(f"teacher, {calls(teacher.nfe)}", [(0.0, value)], -1, level=True))
    return list(found.values())


def quality_against_calls(runs: Runs, rows: Mapping[str, Sequence[Final]]) -> str:
    """Headline fidelity and coverage of teachers and students against network calls."""
    chosen: list[str] = []
    kinds = kinds_in(runs, rows)
    for _, run in runs:
        for row in rows[run.name]:
            chosen += [name for name in headline(row.values, kinds) if name is not None and name not in chosen]
    chosen = [*of_aspect(chosen, kinds, "fidelity"), *of_aspect(chosen, kinds, "coverage")]
    figures = []
    for name in chosen:
        teachers: dict[tuple[float, float], Series] = {}
        series = []
        for place, (i, run) in enumerate(runs):
            shift = 7.0 * (place - (len(runs) - 1) / 2)
            lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for row in rows[run.name]:
                if row.nfe and name in row.values:
                    lines[row.role].append((float(row.nfe), row.values[name]))
            for role, points in lines.items():
                if role == "teacher":
                    for point in points:
                        teachers.setdefault(point, Series("teacher", [point], -1, line=False, shape="ring"))
                else:
                    series.append(Series(f"{run.name}, {role}", sorted(points), i, line=len(points) > 1, shift=shift))
        told = f"{name.replace('_', ' ')} against network calls per sample"
        low = kinds[name].better == "lower"
        told_calls = "network calls per sample"
        svg = chart([*teachers.values(), *series], told, told_calls, lambda x: str(round(x)), calls=True, log=low)
        figures += [figure(name, svg, kinds[name])] if svg else []
    if not figures:
        return ""
    return charts(runs, rows, "ring", figures)
