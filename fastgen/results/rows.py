"""The lines of ``metrics.jsonl`` and the table made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastgen.results import kinds as kinds_of_numbers
from fastgen.results.former_names import kind_by_name
from fastgen.results.kinds import Kind, Kinds, ordered
from fastgen.results.records import read_json_lines

Row = dict[str, Any]
"""One line of ``metrics.jsonl``: what was measured and how, ``values`` and their ``kinds`` by name."""
REAL = "real"
"""The role of real samples: what a perfect sampler would get, measured like all others."""
COMPARED_WITH = ("teacher", REAL)
"""Roles of what students are compared with; it is not trained."""
FOUND = ("training_seconds", "evaluation_seconds", "values", "kinds", "ratio_to_teacher")
"""What a row says; the rest is what it is about."""


def kinds_of(row: Mapping[str, Any]) -> dict[str, Kind]:
    """What the numbers of a row measure; of rows that do not say it, by their names."""
    said = kinds_of_numbers.read(row.get("kinds"))
    return {name: said.get(name) or kind_by_name(str(name)) for name in row["values"]}


def is_student(role: str) -> bool:
    """Whether samples of a role are those of what is trained."""
    return role not in COMPARED_WITH


def cell(row: Row, name: str) -> str:
    """A number with its ratio to the teacher's, e.g. ``0.5 (2.00x)``."""
    if name not in row["values"]:
        return ""
    ratio = row["ratio_to_teacher"].get(name)
    return f"{row['values'][name]:.4g}" + ("" if ratio is None else f" ({ratio:.2f}x)")


def table(rows: list[Row], upright: bool = False) -> str:
    """Rows as an aligned Markdown table, a coverage number beside the first fidelity number; ``upright`` gives every
    metric a line instead of a column.
    """
    names = ordered((name for row in rows for name in row["values"]), kinds_of_all(map(kinds_of, rows)))
    lines = [["updates", "role", "calls", *names]]
    for row in rows:
        updates = str(row["student_updates"]) if is_student(row["role"]) else ""
        lines.append([updates, row["role"], str(row["nfe"]), *(cell(row, name) for name in names)])
    if upright:
        lines = [list(line) for line in zip(*lines, strict=True)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "".join(f"| {' | '.join(texts)} |\n" for texts in padded)


def kinds_of_all(several: Iterable[Kinds]) -> dict[str, Kind]:
    """The kinds of several rows together; where two differ the later one counts."""
    return {name: kind for kinds in several for name, kind in kinds.items()}


def read_rows(path: Path) -> list[Row]:
    """The rows that were written so far; a line cut short by a crash is left out."""
    return read_json_lines(path)[0]


def identity(row: Row) -> str:
    """What a row is about, apart from what was found and how long that took."""
    return json.dumps({name: value for name, value in row.items() if name not in FOUND}, sort_keys=True, default=str)


def ratios(values: Mapping[str, float], teacher: Mapping[str, float], kinds: Kinds) -> dict[str, float]:
    """Each number divided by the teacher's, without those that say nothing about the samples."""
    return {
        name: value / teacher[name]
        for name, value in values.items()
        if teacher.get(name) and kinds.get(name, Kind()).aspect != "bookkeeping"
    }
