"""Three curves of students on the miniature Stable Diffusion, from which one can learn what its options do.

    python -m benchmarks.miniatures                      # all, about half an hour of one CPU core
    python -m benchmarks.miniatures --run full adapters  # these runs; of the others what there is
    python -m benchmarks.miniatures --pages              # the pages again from what is there

- Full fine-tuning against LoRA: ``sid_emoji`` as it is, and with adapters as student and as critic.
- With and without an average of the weights: both are measured in these runs.
- Guidance of the teacher from 1 to 6: ``dmd2_emoji`` at one call, whose teacher is guided so in training and when it is
  measured.

Each run goes through the command line in a process of its own, on one thread, and is measured every 25 updates. A run
that was stopped goes on from its last checkpoint; a finished one is not repeated unless its config changed. Written to
``benchmarks/results``: ``miniatures.json`` (all rows), ``miniatures.md``, ``miniatures.png``.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastgen.errors import UserError
from fastgen.storage.files import write_atomically, write_text

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
WORK = Path("runs/miniatures/curves")
GUIDANCES = (1, 2, 3, 4, 6)
SHOWN = ("frechet", "retrieval", "caption_accuracy", "unsaid_diversity", "coverage")
READING = "<!-- reading -->"
"""What stands between two of these lines in the page is written by hand and kept."""

Config = dict[str, Any]


def adapted(model: Config) -> None:
    """Adapters as student and critic; they learn faster, as so few numbers move."""
    for role, factor in (("student", 5.0), ("critic", 2.5)):
        model[role] = {"class_path": "LoRA", "init_args": {"rank": 16, "alpha": None, "layers": "*"}}
        model[f"{role}_optimizer"]["init_args"]["lr"] *= factor


def guided(scale: float) -> Callable[[Config], None]:
    """One call of a student whose teacher is guided with a scale."""

    def change(model: Config) -> None:
        model["guidance"]["teacher"] = scale
        model["solver"]["init_args"]["guidance"] = scale
        model["sampler"]["init_args"]["times"] = [625.0]

    return change


RUNS: Mapping[str, tuple[str, Callable[[Config], None]]] = {
    "full": ("sid_emoji", lambda model: None),
    "adapters": ("sid_emoji", adapted),
    **{f"guidance {scale}": ("dmd2_emoji", guided(float(scale))) for scale in GUIDANCES},
}
"""Config and what is changed in the arguments of its method."""


def config_of(name: str, updates: int, count: int, work: Path) -> Config:
    """The config of a run: measured every 25 updates, the average and the weights themselves."""
    base, change = RUNS[name]
    config: Config = copy.deepcopy(yaml.safe_load((ROOT / "configs" / f"{base}.yaml").read_text(encoding="utf-8")))
    change(config["model"]["init_args"])
    trainer = config["trainer"]
    trainer |= {"max_steps": updates, "enable_progress_bar": False}
    trainer["logger"]["init_args"] = {"save_dir": str(work.resolve()), "name": folder_of(name)}
    trainer["callbacks"] = [c for c in trainer["callbacks"] if c["class_path"] != "SampleGrid"]
    for callback in trainer["callbacks"]:
        if callback["class_path"] == "Evaluate":
            callback["init_args"] |= {"every_n_steps": 25, "count": count, "roles": ["average", "student"]}
        if callback["class_path"].endswith("Checkpoint"):
            callback["init_args"] |= {"every_n_steps": 25}
    return config


def folder_of(name: str) -> str:
    return name.replace(" ", "-")


def fingerprint(config: Config) -> str:
    """16 hex digits of what a run depends on; the folder is not part of it."""
    parts = {key: value for key, value in config.items() if key != "trainer"}
    parts["trainer"] = {key: value for key, value in config["trainer"].items() if key != "logger"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All that a run measured, in the order of updates, each once however often it was stopped."""
    rows = {}
    for file in sorted(folder.glob("version_*/metrics.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["role"], row["nfe"], row["student_updates"]] = {
                "role": row["role"],
                "calls": row["nfe"],
                "updates": row["student_updates"],
                "seconds": round(row["training_seconds"] or 0.0, 1),  # those of the data have none
                "values": {name: row["values"][name] for name in SHOWN if name in row["values"]},
            }
    return sorted(rows.values(), key=lambda row: row["updates"])


def train(name: str, config: Config, work: Path) -> list[dict[str, Any]]:
    """Make a run, or go on with it."""
    folder, print_of = work / folder_of(name), fingerprint(config)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "fingerprint"
    if mark.exists() and mark.read_text(encoding="utf-8") != print_of:
        raise UserError(f"'{folder}' holds a run of another config; remove it, or give another --work.")
    write_text(mark, print_of)
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    words = [sys.executable, "-m", "fastgen", "fit", "--config", str(folder / "config.yaml")]
    checkpoints = sorted(folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if any(row["updates"] >= config["trainer"]["max_steps"] for row in rows_of(folder)):
        return rows_of(folder)
    if checkpoints:
        words += ["--ckpt_path", str(checkpoints[-1])]
    subprocess.run(words, check=True, cwd=ROOT)
    return rows_of(folder)


def last(rows: Iterable[Mapping[str, Any]], role: str, calls: int | None = None) -> Mapping[str, Any] | None:
    """The last row of a role; of a teacher that with most calls, unless they are given."""
    own = [row for row in rows if row["role"] == role and calls in (None, row["calls"])]
    return max(own, key=lambda row: (row["updates"], row["calls"]), default=None)


def cells(values: Mapping[str, float]) -> str:
    return " | ".join(f"{values[name]:.3g}" if name in values else "-" for name in SHOWN)


def page(runs: Mapping[str, Mapping[str, Any]], reading: str) -> str:
    """The tables."""
    head = f"| {' | '.join(SHOWN)} |"
    lines = [
        "# What options do to a student of captions",
        "",
        "`python -m benchmarks.miniatures`: students of `emoji-sd` at one call, in the judge's features, of captions",
        "of held-out combinations. Fréchet distances are biased upwards at so few samples: read them beside the real",
        "rows.",
        "",
        "![Curves](miniatures.png)",
        "",
        READING,
        *reading.splitlines(),
        READING,
        "",
    ]
    lines += ["## Full fine-tuning, adapters, averages", "", f"| run | role | updates {head}"]
    lines += ["|---|---|---" + "|---" * len(SHOWN) + "|"]
    for name in ("full", "adapters"):
        if name not in runs:
            continue
        rows = runs[name]["rows"]
        for role, calls in (("real", None), ("teacher", None), ("teacher", 1)):
            if (row := last(rows, role, calls)) is not None:
                said = role if role == "real" else f"teacher, {row['calls']} calls"
                lines.append(f"| {name} | {said} | | {cells(row['values'])} |")
        lines += [
            f"| {name} | {row['role']} | {row['updates']} | {cells(row['values'])} |"
            for row in rows
            if row["role"] in ("average", "student")
        ]
    lines += ["", "## Guidance of the teacher", "", f"| scale | who {head}", "|---|---" + "|---" * len(SHOWN) + "|"]
    for scale in GUIDANCES:
        run = runs.get(f"guidance {scale}")
        for role in ("real", "teacher", "average", "student"):
            if run is not None and (row := last(run["rows"], role)) is not None:
                kind = {"average": "average of the student", "student": "student as trained"}.get(role)
                said = role if kind is None else f"{kind} after {row['updates']} updates"
                lines.append(f"| {scale} | {said}, {row['calls']} calls | {cells(row['values'])} |")
    return "\n".join([*lines, ""])


def plot(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Three panels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12.6, 3.6))

    def curve(axis: Any, name: str, role: str, label: str, style: str) -> None:
        rows = [row for row in runs.get(name, {"rows": []})["rows"] if row["role"] == role]
        axis.plot([r["updates"] for r in rows], [r["values"]["frechet"] for r in rows], style, ms=3.5, label=label)

    curve(axes[0], "full", "average", "all weights", "o-")
    curve(axes[0], "adapters", "average", "LoRA", "s-")
    for name, style in (("full", "o"), ("adapters", "s")):
        curve(axes[1], name, "average", f"{name}, average", f"{style}-")
        curve(axes[1], name, "student", f"{name}, as trained", f"{style}--")
    for axis, title in zip(axes, ("all weights or LoRA", "average of weights or not"), strict=False):
        if (row := last(runs.get("full", {"rows": []})["rows"], "teacher")) is not None:
            axis.axhline(row["values"]["frechet"], color="grey", ls=":", label=f"teacher, {row['calls']} calls")
        axis.set(title=title, xlabel="updates", ylabel="Fréchet distance", yscale="log")
    twin = axes[2].twinx()
    for role, style in (("teacher", "--"), ("average", "-")):
        found = {s: last(runs[f"guidance {s}"]["rows"], role) for s in GUIDANCES if f"guidance {s}" in runs}
        points = {s: row["values"] for s, row in found.items() if row is not None}
        who = "teacher" if role == "teacher" else "student"
        axes[2].plot(list(points), [v["frechet"] for v in points.values()], f"o{style}", color="C0", ms=3.5, label=who)
        twin.plot(list(points), [v["unsaid_diversity"] for v in points.values()], f"s{style}", color="C1", ms=3.5)
    axes[2].set(title="guidance of the teacher", xlabel="scale", ylabel="Fréchet distance (blue)")
    twin.set_ylabel("diversity of what is unsaid (orange)")
    for axis in axes:
        axis.set_visible(any(len(line.get_xdata()) for line in axis.get_lines()))  # of runs that there are
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=85))
    plt.close(figure)


def write_pages(runs: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """``miniatures.json``, ``miniatures.md`` (whose reading is kept) and the picture."""
    out.mkdir(parents=True, exist_ok=True)
    ordered = {name: runs[name] for name in RUNS if name in runs}
    write_text(out / "miniatures.json", json.dumps({"runs": ordered}, indent=1) + "\n")
    markdown = out / "miniatures.md"
    pieces = markdown.read_text(encoding="utf-8").split(READING) if markdown.exists() else []
    write_text(markdown, page(ordered, pieces[1].strip("\n") if len(pieces) == 3 else ""))
    plot(ordered, out / "miniatures.png")


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for, write the pages after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", choices=list(RUNS), default=list(RUNS), help="default all")
    parser.add_argument("--updates", type=int, default=150, help="student updates of every run")
    parser.add_argument("--count", type=int, default=400, help="samples that are measured")
    parser.add_argument("--pages", action="store_true", help="only write the pages")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the runs")
    options = parser.parse_args(words)
    merged = options.out / "miniatures.json"
    runs = json.loads(merged.read_text(encoding="utf-8"))["runs"] if merged.exists() else {}
    try:
        for name in [] if options.pages else options.run:
            config = config_of(name, options.updates, options.count, options.work)
            if runs.get(name, {}).get("fingerprint") == fingerprint(config):
                continue
            rows = train(name, config, options.work.resolve())
            runs[name] = {"config": RUNS[name][0], "fingerprint": fingerprint(config), "rows": rows}
            write_pages(runs, options.out)
    except UserError as error:
        print(f"fastgen: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    write_pages(runs, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
