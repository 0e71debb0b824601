"""Does every method learn? Trains the shipped configs and compares the result with a stated bar.

    python -m benchmarks.learning                       # all four, about 15 minutes on two CPU cores
    python -m benchmarks.learning sid_digits --every 250

Each config runs through the real command line in a process of its own. Written to ``benchmarks/results/``:
``learning.json`` (all rows of all evaluations, versions, command), ``learning.md`` (the table), ``learning.png`` (the
distance over training); ``<config>.png`` is the last sample grid. Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

BARS: dict[str, dict[str, float]] = {
    # Largest Fréchet distance over the many-step teacher's, and largest loss of class accuracy.
    "sid_digits": {"frechet_ratio": 1.4, "accuracy_loss": 0.01, "minutes": 5.0},
    "dmd2_digits": {"frechet_ratio": 1.5, "accuracy_loss": 0.01, "minutes": 5.0},
    # Modes found, and how many times smaller the excess of W2 over its sampling floor is than that of the teacher's
    # network called once.
    "sid_mixture": {"modes": 8, "excess_ratio": 10.0, "minutes": 2.0},
    "dmd2_mixture": {"modes": 8, "excess_ratio": 10.0, "minutes": 2.0},
}


def train(config: str, every: int, folder: Path) -> Path:
    """Run ``fastgen fit`` and return the run's folder."""
    command = [sys.executable, "-m", "fastgen", "fit", "--config", f"configs/{config}.yaml"]
    overrides = folder / "overrides.yaml"
    source = Path(f"configs/{config}.yaml").read_text(encoding="utf-8")
    import yaml

    callbacks = yaml.safe_load(source)["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"] == "Evaluate":
            callback["init_args"]["every_n_steps"] = every
    overrides.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}), encoding="utf-8")
    command += ["--config", str(overrides), f"--trainer.logger.init_args.save_dir={folder}"]
    subprocess.run(command, check=True)
    return folder / config / "version_0"


def mean_excess(checkpoint: Path, sets: int = 8, count: int = 2000) -> dict[str, float]:
    """W2 to the exact law, averaged over ``sets`` of samples, since one set of 2,000 is off by up to half the floor.

    Gives the distance of the student, of the network that it began with called once at ``t_max``, and of fresh samples
    of the law (the floor), each against the same fresh samples.
    """
    import torch

    from fastgen.checkpoints.reading import method_from_checkpoint
    from fastgen.denoisers import MLP, RingMixture
    from fastgen.metrics.laws.mixture import wasserstein2
    from fastgen.processes import EDM
    from fastgen.randomness import Draws, generator

    method = method_from_checkpoint(checkpoint)
    law = RingMixture(EDM())
    network = MLP(EDM(), weights="asset:teacher_mixture.safetensors")
    network.load_weights()
    t = torch.full((count,), network.process.t_max, dtype=torch.float64)
    totals = {"student": 0.0, "network_once": 0.0, "floor": 0.0}
    for number in range(sets):
        seeds = range(10_000 + number * count, 10_000 + (number + 1) * count)
        noise = Draws(0, seeds, "sample").normal("noise", (2,))
        with torch.no_grad():
            once = network(network.process.start(noise, t), t).x0
        fresh = law.sample(count, generator("fresh", number))
        totals["student"] += wasserstein2(method.sample(seeds, {}), fresh) / sets
        totals["network_once"] += wasserstein2(once, fresh) / sets
        totals["floor"] += wasserstein2(law.sample(count, generator("floor", number)), fresh) / sets
    return totals


def judge(config: str, rows: list[dict[str, Any]], run: Path) -> dict[str, Any]:
    """What was reached, beside the bar."""
    bars = BARS[config]
    teacher = next(row for row in rows if row["role"] == "teacher" and row["nfe"] > 1)
    student = [row for row in rows if row["role"] != "teacher"][-1]
    reached: dict[str, float] = {"minutes": student["training_seconds"] / 60}
    if "frechet_ratio" in bars:
        reached["frechet_ratio"] = student["values"]["frechet"] / teacher["values"]["frechet"]
        reached["accuracy_loss"] = teacher["values"]["accuracy"] - student["values"]["accuracy"]
        good = all(reached[name] <= bars[name] for name in bars)
    else:
        w2 = mean_excess(run / "checkpoints" / "last.ckpt")
        reached["excess_ratio"] = (w2["network_once"] - w2["floor"]) / max(w2["student"] - w2["floor"], 1e-6)
        reached |= {f"w2_{name}": value for name, value in w2.items()}
        reached["modes"] = student["values"]["modes_found"]
        good = (
            reached["minutes"] <= bars["minutes"]
            and reached["modes"] >= bars["modes"]
            and reached["excess_ratio"] >= bars["excess_ratio"]
        )
    return {"bars": bars, "reached": {k: round(v, 4) for k, v in reached.items()}, "passed": good}


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Learning bars",
        "",
        f"`{results['command']}`, {results['date']}, {results['machine']}, "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "",
    ]
    for config, result in results["configs"].items():
        rows = result["rows"]
        names = list(rows[0]["values"])
        last = [row for row in rows if row["role"] == "teacher"] + [rows[-1]]
        lines += [f"## {config}", ""]
        lines += ["| | " + " | ".join(f"{r['role']}, {r['nfe']} call{'s' * (r['nfe'] > 1)}" for r in last) + " |"]
        lines += ["|---|" + "---|" * len(last)]
        lines += [f"| {n} | " + " | ".join(f"{r['values'][n]:.4g}" for r in last) + " |" for n in names]
        reached = ", ".join(
            f"{k} {v:.3g}" + (f" (bar {result['bars'][k]:g})" if k in result["bars"] else "")
            for k, v in result["reached"].items()
        )
        lines += ["", f"{'Passed' if result['passed'] else 'MISSED'}: {reached}.", ""]
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Distance over training seconds, one panel per config."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    configs = results["configs"]
    figure, axes = plt.subplots(1, len(configs), figsize=(4.2 * len(configs), 3.4), squeeze=False)
    for axis, (config, result) in zip(axes[0], configs.items(), strict=True):
        metric = "frechet" if "digits" in config else "wasserstein2"
        students = [row for row in result["rows"] if row["role"] != "teacher"]
        axis.plot([r["training_seconds"] for r in students], [r["values"][metric] for r in students], "o-", ms=3)
        for row in result["rows"]:
            if row["role"] == "teacher" and row["nfe"] > 1:
                axis.axhline(row["values"][metric], color="grey", ls="--", lw=1, label=f"teacher, {row['nfe']} calls")
        if metric == "wasserstein2":
            axis.axhline(students[0]["values"]["wasserstein2_floor"], color="grey", ls=":", lw=1, label="floor")
        axis.set(title=config, xlabel="training seconds", ylabel=metric)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Train, judge, write."""
    import lightning
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help=f"default all of: {', '.join(BARS)}")
    parser.add_argument("--every", type=int, default=250, help="student updates between evaluations")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.configs if name not in BARS]:
        parser.error(f"no bar is stated for {', '.join(unknown)}; choose from {', '.join(BARS)}")
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.learning", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "lightning": lightning.__version__,
        },
        "configs": {},
    }
    RESULTS.mkdir(exist_ok=True)
    for config in arguments.configs or BARS:
        with tempfile.TemporaryDirectory() as folder:
            run = train(config, arguments.every, Path(folder))
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            grid = max((run / "grids").glob("*.png"))
            shutil.copy(grid, RESULTS / f"{config}.png")
            verdict = judge(config, rows, run)
            throughput = json.loads((run / "throughput.json").read_text())
        results["configs"][config] = {**verdict, "throughput": throughput, "rows": rows}
        (RESULTS / "learning.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "learning.md").write_text(table(results), encoding="utf-8")
    plot(results, RESULTS / "learning.png")
    print(table(results))
    return 0 if all(result["passed"] for result in results["configs"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
