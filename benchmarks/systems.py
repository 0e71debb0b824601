"""One run of each of the small configs: what its student reaches, beside its teacher.

    python -m benchmarks.systems emd_mixture sgmd_mixture    # trains these; the rows of others stay

Each config runs through the command line in a process of its own, on one thread. Written to ``benchmarks/results``:
``systems.json`` (first and last evaluation of each) and ``systems.md``. One seed: differences below the spread of
seeds, which the oracle table gives, say nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TEXT = (
    "`python -m benchmarks.systems CONFIG...`, one seed each. Where updates are fewer than the config's, the run ended",
    "early, with `--words trainer.max_steps=500`: it shows that the method learns, not how far it gets.",
)
SHOWN = {"mixture": ("wasserstein2", "wasserstein2_floor", "modes_found", "mmd2"), "digits": ("frechet", "accuracy")}
SHOWN["clips"] = ("clip_wasserstein2", "clip_wasserstein2_floor", "narrowest", "transition_error")


def measured(config: str, words: list[str], keep: Path | None) -> dict[str, Any]:
    """The evaluations of a run: the teacher's, and the student's first and last."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fastgen", "fit", "--config", f"configs/{config}.yaml", *words]
        subprocess.run([*command, f"--trainer.logger.init_args.save_dir={folder}"], check=True)
        run = Path(folder) / config / "version_0"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{config}.png").write_bytes(max((run / "grids").glob("*.png")).read_bytes())
    teacher = [row for row in rows if row["role"] == "teacher"]
    student = [row for row in rows if row["role"] != "teacher"]
    return {"date": datetime.date.today().isoformat(), "teacher": teacher, "first": student[0], "last": student[-1]}


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = ["# One run of each small config", "", *TEXT, ""]
    for kind, names in SHOWN.items():
        lines += [f"## {kind}", "", "| config | role | calls | updates | minutes | " + " | ".join(names) + " |"]
        lines += ["|" + "---|" * (5 + len(names))]
        for config, result in sorted(results.items()):
            if config.endswith(kind):
                for row in (*result["teacher"], result["first"], result["last"]):
                    values = [f"{row['values'][name]:.4g}" if name in row["values"] else "-" for name in names]
                    minutes = f"{row.get('training_seconds', 0.0) / 60:.1f}"
                    cells = [config, row["role"], str(row["nfe"]), str(row.get("student_updates", 0)), minutes, *values]
                    lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Train, keep, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--grids", type=Path, default=None, help="folder for the last grid of samples of each")
    parser.add_argument("--words", nargs="*", default=[], help="more words for 'fastgen fit', without their dashes")
    arguments = parser.parse_args()
    path = RESULTS / "systems.json"
    for config in arguments.configs:
        found = measured(config, [f"--{word}" for word in arguments.words], arguments.grids)
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        results[config] = found
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (RESULTS / "systems.md").write_text(table(results), encoding="utf-8")
    print(table({config: results[config] for config in arguments.configs}))


if __name__ == "__main__":
    main()
