"""The final numbers of a run, by role and network calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastgen.report.run import Measurement, Run
from fastgen.results.kinds import Kind, Kinds, of_aspect, without_lone_fidelity
from fastgen.results.rows import is_student, kinds_of_all


@dataclass(frozen=True)
class Final:
    """The final numbers of one role with one number of network calls.

    Attributes:
        run: Name of the run.
        role: Whose samples.
        nfe: Network calls per sample.
        student_updates: Updates behind the weights.
        training_seconds: Time of training until then.
        count: Number of samples.
        fingerprint: How they were measured.
        values: Numbers that may be shown (see ``without_lone_fidelity``).
        kinds: What they measure.
        ratios: The same divided by the teacher's.
        withheld: Fidelity metrics that have no coverage number beside them.
    """

    run: str
    role: str
    nfe: int | None
    student_updates: int
    training_seconds: float | None
    count: int | None
    fingerprint: str
    values: Mapping[str, float]
    kinds: Kinds
    ratios: Mapping[str, float]
    withheld: tuple[str, ...]


def finals(run: Run) -> list[Final]:
    """The last measurements of a run; the teacher with the most calls comes first.

    Measurements of the same role, calls and student updates are merged: those of ``Evaluate`` and those of external
    judges stand in one row.
    """
    groups: dict[tuple[str, int | None], list[Measurement]] = {}
    for m in run.measurements:
        groups.setdefault((m.role, m.nfe), []).append(m)
    rows = [merged(run, group) for group in groups.values()]
    rows.sort(key=lambda row: (row.role != "teacher", -(row.nfe or 0) if row.role == "teacher" else 0))
    teacher = next((row for row in rows if row.role == "teacher"), None)
    if teacher is None:
        return rows
    return [row if row is teacher else with_ratios(row, teacher) for row in rows]


def merged(run: Run, group: Sequence[Measurement]) -> Final:
    """The final row of one role and number of calls."""
    last = max(m.student_updates for m in group)
    # Teachers and data do not change, so all of their measurements count.
    same = [m for m in group if not is_student(m.role) or m.student_updates == last]
    values: dict[str, float] = {}
    for m in same:
        values |= m.values
    kinds = kinds_of_all(m.kinds for m in same)
    shown, withheld = without_lone_fidelity(values, kinds)
    seconds = [m.training_seconds for m in same if m.training_seconds is not None]
    # The row speaks of the samples that its distances were measured on, not of a judge's.
    main = next((m for m in reversed(same) if of_aspect(m.values, m.kinds, "fidelity")), same[-1])
    return Final(
        run=run.name,
        role=main.role,
        nfe=main.nfe,
        student_updates=last,
        training_seconds=max(seconds, default=None),
        count=main.count,
        fingerprint=main.fingerprint,
        values=shown,
        kinds={name: kinds.get(name, Kind()) for name in shown},
        ratios={},
        withheld=withheld,
    )


def with_ratios(row: Final, teacher: Final) -> Final:
    """The row with its numbers divided by the teacher's."""
    ratios = {
        name: value / teacher.values[name]
        for name, value in row.values.items()
        if teacher.values.get(name) and row.kinds[name].aspect != "bookkeeping"
    }
    return replace(row, ratios=ratios)


def incomparable(rows: Sequence[Final]) -> list[str]:
    """Sentences on why numbers of these rows must not be compared, if so."""
    notes: list[str] = []
    measured = [row for row in rows if of_aspect(row.values, row.kinds, "fidelity")]
    counts = sorted({row.count for row in measured if row.count is not None})
    if len(counts) > 1:
        numbers = ", ".join(map(str, counts))
        notes.append(
            f"The rows were measured on different numbers of samples ({numbers}); distances shrink with the count."
        )
    prints = sorted({row.fingerprint for row in measured if row.fingerprint})
    if len(prints) > 1:
        notes.append(f"The rows were measured in different ways ({'; '.join(prints)}); their distances do not compare.")
    for row in rows:
        if row.withheld:
            notes.append(
                f"{row.run}, {row.role}: {', '.join(row.withheld)} not shown, because no coverage number (recall, "
                "coverage, modes found) was measured on the same samples."
            )
    return notes


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs and their final rows as plain values."""
    return [
        {
            "run": run.name,
            "folder": str(run.folder),
            "method": run.method,
            "student_updates": run.student_updates,
            "throughput": dict(run.throughput),
            "health_events": len(run.events),
            "rows": [asdict(row) for row in finals(run)],
        }
        for run in runs
    ]
