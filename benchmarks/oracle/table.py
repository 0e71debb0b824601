"""Tables and pictures from the records of runs."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.oracle.problems import PROBLEMS
from benchmarks.oracle.recipes import RECIPES, class_of
from fastgen.methods import FlowMapDistiller, ScoreDistiller
from fastgen.storage.files import write_atomically, write_text

Record = dict[str, Any]
Records = Mapping[tuple[str, str], Record]

CALLS = (1, 2, 4)
SOLVERS = ("Euler", "DPMSolverPP", "UniPC")
"""Of the teacher, at few calls."""
FURTHER = {
    "teacher_distance": "to the teacher",
    "retrieval": "retrieval",
    "caption_accuracy": "attributes",
    "unsaid_diversity": "diversity",
}
"""Numbers of some problems that have a column of their own."""
FAMILIES = ("matching", "flow maps", "trajectories and solvers")
READING = "<!-- reading -->"
"""What follows this line in the page is written by hand and kept."""


def names(records: Records) -> list[str]:
    """All methods, in the order of the recipes, then the others."""
    found = {name for _, name in records if name != "teacher"}
    return [*(name for name in RECIPES if name in found), *sorted(found - set(RECIPES))]


def family(record: Record) -> str:
    """The panel of a method."""
    cls = class_of(record["method"])
    if issubclass(cls, FlowMapDistiller):
        return "flow maps"
    return "matching" if issubclass(cls, ScoreDistiller) or record["method"] == "GDD" else "trajectories and solvers"


def solver_distances(teacher: Record, role: str = "teacher") -> dict[int, float]:
    """Least distance of the teacher's solvers with at most 1, 2, 4 calls: the bar."""
    return {calls: min(row["distance"] for row in teacher[role] if row["calls"] <= calls) for calls in CALLS}


def few_calls(teacher: Record, solver: str) -> str:
    """Distances of one of the teacher's solvers at 1, 2, 4 and 8 calls."""
    known = {row["calls"]: row["distance"] for row in teacher["teacher"] if row["solver"] == solver}
    return " / ".join(number(known[calls]) if calls in known else "-" for calls in (*CALLS, 8))


def least(teacher: Record) -> float:
    """Distance of many calls; an unbiased one that chance makes 0 is drawn as that of a perfect sampler."""
    return max(teacher["teacher"], key=lambda row: row["calls"])["distance"] or teacher["floor"]


def bar(teacher: Record, steps: int) -> float:
    """What a student of ``steps`` calls must beat."""
    return min(row["distance"] for row in teacher["teacher"] if row["calls"] <= steps)


def number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def row_of(records: Records, problem: str, name: str, steps: int) -> Record | None:
    found = records.get((problem, name), {})
    if "failure" in found:
        return None
    return next((row for row in found.get("rows", []) if row["steps"] == steps), None)


def overview(records: Records) -> list[str]:
    """Distances of everything at 1, 2 and 4 calls."""
    problems = [p for p in PROBLEMS if (p, "teacher") in records]
    lines = ["| | " + " | ".join(f"{records[p, 'teacher']['distance']}, {p}" for p in problems) + " |"]
    lines += ["|---|" + "---|" * len(problems)]

    def many(p: str) -> str:
        row = max(records[p, "teacher"]["teacher"], key=lambda row: row["calls"])
        return f"{number(row['distance'])} ({row['calls']} calls)"

    lines += ["| a perfect sampler | " + " | ".join(number(records[p, "teacher"]["floor"]) for p in problems) + " |"]
    lines += ["| teacher, many calls | " + " | ".join(many(p) for p in problems) + " |"]
    for solver in SOLVERS:
        few = [few_calls(records[p, "teacher"], solver) for p in problems]
        lines += [f"| teacher, {solver}, 1 / 2 / 4 / 8 calls | " + " | ".join(few) + " |"]
    best = {
        (p, k): min((r["distance"] for n in names(records) if (r := row_of(records, p, n, k))), default=math.nan)
        for p in problems
        for k in CALLS
    }
    for name in names(records):
        cells = []
        for p in problems:
            record = records.get((p, name), {})
            if "failure" in record or not record.get("rows"):
                cells.append("failed" if "failure" in record else "-")
                continue
            texts = []
            for k in CALLS:
                row = row_of(records, p, name, k)
                if row is None:
                    texts.append("-")
                    continue
                text = number(row["distance"])
                text = f"**{text}**" if row["distance"] == best[p, k] else text
                texts.append(text if row["distance"] < bar(records[p, "teacher"], k) else f"{text} ✗")
            cells.append(" / ".join(texts))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def details(records: Records, problem: str) -> list[str]:
    """One problem: quality and cost of every method."""
    teacher = records[problem, "teacher"]
    budget = max(record.get("evaluations", 0) for (p, _), record in records.items() if p == problem)
    further = [name for name in FURTHER if name in teacher["teacher"][0]]
    columns = ["calls", "distance", "modes", "precision", "recall", *(FURTHER[name] for name in further)]
    columns += ["updates", "evaluations / update", "CPU s / update", "MiB"]
    lines = [
        f"## {problem}: {teacher['title']}",
        "",
        f"Distance: {teacher['distance']}, {teacher['count']} samples; a perfect one: {number(teacher['floor'])}."
        f" Budget: {budget:,} evaluations times samples, batches of {PROBLEMS[problem]().batch_size}.",
        "",
        f"| | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]

    def quality(row: Record) -> str:
        shown = [number(row["distance"]), *(f"{row[name]:.2f}" for name in ("coverage", "precision", "recall"))]
        return " | ".join([*shown, *(number(row[name]) if name in row else "" for name in further)])

    for role in ("real", "teacher", "guidance", "start"):
        for row in sorted(teacher.get(role, []), key=lambda row: -row["calls"]):
            lines.append(f"| {role}, {row['solver']} | {row['calls']} | {quality(row)} | | | | |")
    remarks = []
    for name in names(records):
        record = records.get((problem, name))
        if record is None:
            continue
        if sentence := record.get("failure") or record.get("left_out"):
            remarks.append(f"{name}: {sentence}.")
            continue
        cost = (
            f"{record['updates']} | {record['evaluations_per_update']:.1f} | {record['seconds_per_update']:.4f} | "
            f"{record['peak_memory_mib']:.0f}"
        )
        for row in record["rows"]:
            won = "" if row["distance"] < bar(teacher, row["steps"]) else " ✗"
            lines.append(f"| {name}{won} | {row['steps']} | {quality(row)} | {cost} |")
            cost = " | | | "
    return [*lines, "", *remarks, ""]


INTRODUCTION = """# Every method on problems whose truth is known

`python -m benchmarks.oracle --jobs 2`, {versions}, {machine}. {hours}

**Same start.** A student begins as a small denoiser: on `ring`, `guided` and `images` one trained on exact samples
(once per problem), on `digits` the teacher's own weights. **Same budget.** A training may use so many network
evaluations times samples, counted by hooks: a forward pass is 1, a backward pass 1 and 1 more where weights learn, a
forward-mode pass 5 (as measured), an exact teacher's call as much as a network's, a guided call 2; pairs that a solver
makes first are paid from the same budget. So the number of updates follows from the method, not from the machine.
Batch size, average (power EMA of width 0.1) and seeds are the same for all; arguments are in
`benchmarks/oracle/recipes.py`.

**Calls.** A student is asked for 1, 2 and 4 calls through `sample(steps=k)`; consistency models and score distillation
of several steps are called at fixed levels with fresh noise between them. A method that is trained for one call, or for
four, is measured there and nowhere else (-). Progressive distillation is measured at the end of every stage.
SwiftBrush, FDistill and GDD read or adapt their teacher's layers, so theirs is the start network, not the law.
TeacherTraining is the control: the same budget spent on more denoising, sampled by Euler steps.

**Bar.** A student of k calls must beat the best of the teacher's solvers (Euler, which is DDIM, Heun, DPM-Solver++(2M),
UniPC) with at most k calls; ✗ marks those that do not. Bold is the best of its column and number of calls. CPU seconds
are of one core.
On `guided` the truth is what 35 guided calls of the teacher give, since guided scores are those of no law.
On `digits` and `text` "modes" is the k-NN coverage of the real samples; elsewhere the share of Gaussians found.
On `text` the budget is small; captions are of held-out combinations, "to the teacher" is the Fréchet distance to its 25
guided steps, retrieval is among 100 captions, "attributes" is the share of pictures that show all that was asked for,
and "diversity" how often two pictures of a caption differ in what it leaves open.
"""


def page(records: Records, reading: str) -> str:
    """The whole page."""
    import lightning
    import torch

    versions = f"torch {torch.__version__.split('+')[0]}, lightning {lightning.__version__}"
    seconds = sum(record.get("wall_seconds", 0.0) for record in records.values())
    text = INTRODUCTION.format(
        versions=versions,
        machine=f"{platform.machine()} CPU",
        hours=f"Single runs took {seconds / 60:.0f} minutes together.",
    )
    lines = [*text.splitlines(), "", "Distances at 1 / 2 / 4 calls:", "", *overview(records), ""]
    lines += ["![Distance against calls](oracle.png)", "", READING, *reading.splitlines(), "", READING, ""]
    for problem in PROBLEMS:
        if (problem, "teacher") in records:
            lines += details(records, problem)
    lines += ["![Distance against training](oracle_curves.png)", ""]
    return "\n".join(lines)


def colours(count: int) -> list[Any]:
    import matplotlib

    return [matplotlib.colormaps["tab10" if count <= 10 else "tab20"](i) for i in range(count)]


def plot_calls(records: Records, path: Path) -> None:
    """Distance against calls: a column per problem, a row per family."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = [p for p in PROBLEMS if (p, "teacher") in records]
    size = (4.3 * len(problems) + 1.8, 3.3 * len(FAMILIES))
    figure, axes = plt.subplots(len(FAMILIES), len(problems), figsize=size, squeeze=False)
    for panels, kind in zip(axes, FAMILIES, strict=True):
        members = [
            n for n in names(records) if any((p, n) in records and family(records[p, n]) == kind for p in problems)
        ]
        shade = dict(zip(members, colours(len(members)), strict=True))
        for axis, p in zip(panels, problems, strict=True):
            teacher = records[p, "teacher"]
            rows = sorted((r for r in teacher["teacher"] if r["solver"] == "Euler"), key=lambda r: r["calls"])
            many = max(teacher["teacher"], key=lambda r: r["calls"])
            floor = least(teacher)
            points = [(r["calls"], max(r["distance"], floor)) for r in [*rows, many]]
            axis.plot(*zip(*points, strict=True), color="black", lw=1.2, ls="--", label="teacher's solver")
            axis.axhline(floor, color="grey", lw=0.8, ls=":")
            for i, name in enumerate(members):
                found = [(k, max(r["distance"], 0.5 * floor)) for k in CALLS if (r := row_of(records, p, name, k))]
                if found:
                    # Students of one call would hide each other.
                    shift = 1.0 + 0.035 * (i - len(members) / 2)
                    xs, ys = zip(*((k * shift, d) for k, d in found), strict=True)
                    axis.plot(xs, ys, "o-", ms=4.5, lw=1.2, color=shade[name], label=name)
            axis.set(xscale="log", yscale="log")
            axis.set_xticks([1, 2, 4, 8, 35], ["1", "2", "4", "8", "35"])
            axis.minorticks_off()
            axis.grid(alpha=0.25)
            axis.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axis.yaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
            axis.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axis.tick_params(labelsize=8, which="both")
            if kind == FAMILIES[0]:
                axis.set_title(f"{p}: {teacher['distance']}", fontsize=10)
            if kind == FAMILIES[-1]:
                axis.set_xlabel("network calls")
        panels[0].set_ylabel(kind)
        handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
        for axis in panels[1:]:
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        panels[-1].legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=85))
    plt.close(figure)


def plot_curves(records: Records, path: Path) -> None:
    """Distance over training: a panel per method, a line per problem, in units of the many-step teacher's distance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = [p for p in PROBLEMS if (p, "teacher") in records]
    shade = dict(zip(problems, colours(len(problems)), strict=True))
    shown = [n for n in names(records) if any(records.get((p, n), {}).get("curve") for p in problems)]
    columns = 6
    lines = max(1, math.ceil(len(shown) / columns))
    figure, axes = plt.subplots(lines, columns, figsize=(2.7 * columns, 2.2 * lines), squeeze=False, sharey=True)
    for axis, name in zip(axes.flat, shown, strict=False):
        for p in problems:
            teacher = records[p, "teacher"]
            many = least(teacher)
            curve = records.get((p, name), {}).get("curve", [])
            for steps, style in ((1, "o-"), (4, "s--")):
                rows = [row for row in curve if row["steps"] == steps]
                if rows and all(math.isfinite(r["distance"]) for r in rows):
                    last = records[p, name]["updates"]
                    axis.plot(
                        [r["updates"] / last for r in rows],
                        [max(r["distance"], 0.5 * many) / many for r in rows],
                        style,
                        ms=3,
                        lw=1,
                        color=shade[p],
                        label=f"{p}, {steps} call{'s' * (steps > 1)}",
                    )
        axis.axhline(1.0, color="grey", lw=0.8, ls=":")
        axis.set_title(name, fontsize=9)
        axis.set(yscale="log", xlim=(0, 1.05))
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(shown) :]:
        axis.axis("off")
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.supylabel("distance / many-step teacher's", fontsize=9)
    figure.supxlabel("part of the training", fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncol=8, fontsize=8)
    figure.tight_layout(rect=(0.015, 0.01, 1, 0.95))
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=85))
    plt.close(figure)


def write_pages(records: Records, out: Path) -> None:
    """``oracle.json``, ``oracle.md`` (whose reading is kept) and the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    ordered = [records[p, n] for p in PROBLEMS for n in ("teacher", *names(records)) if (p, n) in records]
    write_text(out / "oracle.json", json.dumps({"runs": ordered}, indent=1) + "\n")
    markdown = out / "oracle.md"
    pieces = markdown.read_text(encoding="utf-8").split(READING) if markdown.exists() else []
    reading = pieces[1].strip("\n") if len(pieces) == 3 else ""
    write_text(markdown, page(records, reading))
    if any((p, "teacher") in records for p in PROBLEMS):
        plot_calls(records, out / "oracle.png")
        plot_curves(records, out / "oracle_curves.png")
