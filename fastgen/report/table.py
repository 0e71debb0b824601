"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fastgen.report.formatting import digits, duration, times
from fastgen.report.run import Run, amount
from fastgen.report.summary import Final, finals, incomparable
from fastgen.results.kinds import ordered
from fastgen.results.rows import is_student, kinds_of_all

GAP = "  "


def aligned(columns: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns side by side; the first is left-aligned and repeated when they must be broken to fit ``width``.

    Args:
        columns: Texts from top to bottom, equally many in each column.
        width: Characters per line; ``None`` never breaks.
    """
    wide = [max(len(text) for text in column) for column in columns]
    blocks: list[list[int]] = [[]]
    for k in range(1, len(columns)):
        taken = wide[0] + sum(len(GAP) + wide[j] for j in [*blocks[-1], k])
        if width is not None and taken > width and blocks[-1]:
            blocks.append([])
        blocks[-1].append(k)
    texts = []
    for block in blocks:
        lines = [
            GAP.join([columns[0][i].ljust(wide[0]), *(columns[k][i].rjust(wide[k]) for k in block)]).rstrip()
            for i in range(len(columns[0]))
        ]
        texts.append("".join(f"{line}\n" for line in lines))
    return "\n".join(texts)


def cell(row: Final, name: str) -> str:
    """A number with its ratio to the teacher's; nothing if it was not measured."""
    if name not in row.values:
        return ""
    ratio = times(row.ratios.get(name))
    return digits(row.values[name]) + (f" ({ratio})" if ratio else "")


def comparison(runs: Sequence[Run], width: int | None = None) -> str:
    """The final numbers of runs: one column per run, role and number of network calls.

    Runs that were measured in different ways stand in tables of their own.
    """
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        prints = {m.fingerprint for m in run.measurements if not m.fingerprint.startswith("external:")}
        alike.setdefault(tuple(sorted(prints)), []).append(run)
    return "\n".join(one_table(group, width) for group in alike.values())


def one_table(runs: Sequence[Run], width: int | None) -> str:
    """The table of runs that were measured in the same way."""
    rows: list[tuple[Run, Final | None]] = []
    for run in runs:
        rows += [(run, row) for row in finals(run)] or [(run, None)]
    measured = [row for _, row in rows if row is not None]
    kinds = kinds_of_all(row.kinds for row in measured)
    names = ordered((name for row in measured for name in row.values if name != "count"), kinds)
    labels = ["run", "method", "role", "calls", "updates", "training time", "samples", *names]
    speed = {
        "updates/s": "student_updates_per_second",
        "samples/s": "samples_per_second",
        "peak memory GiB": "peak_memory_gib",
    }
    columns = [[*labels, *speed, "device", "health events"]]
    told: set[str] = set()
    for run, row in rows:
        # What belongs to the run as a whole stands once, in the first column of its student.
        whole_run = run.name not in told and (row is None or is_student(row.role))
        if whole_run:
            told.add(run.name)
        column = [run.name, run.method]
        if row is None:
            seconds = amount(run.throughput.get("training_seconds"))
            column += ["", "", str(run.student_updates), duration(seconds), "", *([""] * len(names))]
        else:
            trains = is_student(row.role)
            column += [row.role, digits(row.nfe), str(row.student_updates) if trains else ""]
            column += [duration(row.training_seconds) if trains else "", digits(row.count)]
            column += [cell(row, name) for name in names]
        for key in speed.values():
            column.append(digits(amount(run.throughput.get(key))) if whole_run else "")
        column += [
            str(run.throughput.get("device", "")) if whole_run else "",
            str(len(run.events)) if whole_run else "",
        ]
        columns.append(column)
    kept = [i for i in range(len(columns[0])) if i < 2 or any(column[i] for column in columns[1:])]
    text = aligned([[column[i] for i in kept] for column in columns], width)
    notes = incomparable(measured)
    return text + "".join(f"\nNote: {note}" for note in notes) + ("\n" if notes else "")
