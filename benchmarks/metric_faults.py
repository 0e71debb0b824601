"""Which metric sees which fault, and what they say of a good, a collapsed and a memorising run, on 8x8 digits.

    python -m benchmarks.metric_faults                  # some ten minutes on two CPU cores
    python -m benchmarks.metric_faults --updates 100    # a quick look

The table: all scans are halved at random, with equal classes; one half is the reference, the other half gets a fault.
A metric sees a fault if in all halvings it is worse than for any untouched half, and is misled if it is better.

The curves: ``good`` is SiD as shipped, ``collapsed`` is DMD2 whose teacher is guided far too strongly, ``memorising``
is a table of images that learns the training images by gradient descent.

Written to ``benchmarks/results/``: ``metric_faults.json``, ``metric_faults.md``, ``metric_faults.png``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from fastgen.data.digits import load_digits_split
from fastgen.metrics import (
    CMMD,
    ClassAccuracy,
    CombinedMetrics,
    DigitsClassifier,
    DuplicateRate,
    FeatureMetric,
    FrechetDistance,
    FrechetRatio,
    ImageMetrics,
    InceptionScore,
    KernelDistance,
    MetricSuite,
    Pixels,
    PrecisionRecall,
    VendiScore,
)

RESULTS = Path(__file__).parent / "results"
METRICS: list[FeatureMetric] = [
    FrechetDistance(),
    FrechetRatio(),
    KernelDistance(),
    PrecisionRecall(),
    DuplicateRate(),
    ClassAccuracy(),
    InceptionScore(),
    CMMD(),
    VendiScore(),
]

DIRECTION = {
    "frechet_over_floor": -1,
    "frechet": -1,
    "kid": -1,
    "cmmd": -1,
    "precision": 1,
    "density": 1,
    "recall": 1,
    "coverage": 1,
    "accuracy": 1,
    "inception_score": 1,
    "vendi": 1,
    "memorised": -1,
    "repeated": -1,
    "pixel_frechet": -1,
}
"""Whether more (1) or less (-1) is better."""

SHOWN = ("frechet_over_floor", "accuracy", "precision", "recall", "memorised", "repeated")
"""The curves in the picture."""


def make_suite() -> MetricSuite:
    """Everything on the classifier's features; of the pixels the Fréchet distance, as a warning."""
    return CombinedMetrics(
        [
            ImageMetrics(DigitsClassifier(), metrics=METRICS),
            ImageMetrics(Pixels(8, 1), metrics=[FrechetDistance()], prefix="pixel_"),
        ]
    )


# ---------------------------------------------------------------------- faults


def blurred(x: Tensor) -> Tensor:
    """Means over 3x3 pixels."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def noisy(x: Tensor, sigma: float, g: torch.Generator) -> Tensor:
    """With white noise; images are in [-1, 1]."""
    return x + sigma * torch.randn(x.shape, generator=g)


def chimeras(x: Tensor, g: torch.Generator) -> Tensor:
    """The top of one image on the bottom of another."""
    other = x[torch.randperm(len(x), generator=g)]
    return torch.cat([x[:, :, :4], other[:, :, 4:]], dim=2)


Fault = Callable[[Tensor, Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(images, labels, reference images, reference labels, generator) to images and labels."""

FAULTS: dict[str, Fault] = {
    "none": lambda x, y, rx, ry, g: (x, y),
    "one class missing": lambda x, y, rx, ry, g: (x[y != 3], y[y != 3]),
    "50 images repeated": lambda x, y, rx, ry, g: (few(x, y).repeat(18, 1, 1, 1), few(y, y).repeat(18)),
    "blur": lambda x, y, rx, ry, g: (blurred(x), y),
    "noise 0.2": lambda x, y, rx, ry, g: (noisy(x, 0.2, g), y),
    "noise 0.4": lambda x, y, rx, ry, g: (noisy(x, 0.4, g), y),
    "chimeras": lambda x, y, rx, ry, g: (chimeras(x, g), y),
    "mean of two": lambda x, y, rx, ry, g: ((x + x[torch.randperm(len(x), generator=g)]) / 2, y),
    "labels shuffled": lambda x, y, rx, ry, g: (x, y[torch.randperm(len(y), generator=g)]),
    "memorised": lambda x, y, rx, ry, g: (rx, ry),
    "memorised + noise 0.05": lambda x, y, rx, ry, g: (noisy(rx, 0.05, g), ry),
}


def few(values: Tensor, label: Tensor) -> Tensor:
    """The first five of each class."""
    return torch.cat([values[label == c][:5] for c in range(10)])


def halves(label: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Row numbers of two random halves with equally many of each class."""
    first, second = [], []
    for c in range(10):
        rows = torch.where(label == c)[0]
        rows = rows[torch.randperm(len(rows), generator=g)]
        first.append(rows[: len(rows) // 2])
        second.append(rows[len(rows) // 2 : 2 * (len(rows) // 2)])
    return torch.cat(first), torch.cat(second)


def measure_faults(splits: int) -> dict[str, dict[str, list[float]]]:
    """Values by fault and metric, one for each halving."""
    train, test = load_digits_split()
    assert train.label is not None and test.label is not None
    x, label = torch.cat([train.x0, test.x0]), torch.cat([train.label, test.label])
    values: dict[str, dict[str, list[float]]] = {fault: {} for fault in FAULTS}
    suite = make_suite()
    for split in range(splits):
        g = torch.Generator().manual_seed(split)
        a, b = halves(label, g)
        suite.set_reference({"samples": x[a], "label": label[a]})
        for fault, make in FAULTS.items():
            samples, asked = make(x[b], label[b], x[a], label[a], g)
            suite.reset()
            suite.update(samples.clamp(-1, 1), asked)
            for name, value in suite.compute().items():
                if name in DIRECTION:
                    values[fault].setdefault(name, []).append(value)
        print(f"halving {split + 1} of {splits}", flush=True)
    return values


def verdict(name: str, clean: list[float], fault: list[float]) -> str:
    """``seen``, ``misled`` or ``-``."""
    sign = DIRECTION[name]
    low, high = min(sign * v for v in clean), max(sign * v for v in clean)
    if max(sign * v for v in fault) < low:
        return "seen"
    return "misled" if min(sign * v for v in fault) > high else "-"


# ---------------------------------------------------------------------- runs


def evaluate_config(every: int) -> dict[str, Any]:
    """An Evaluate callback with the suite of this page, as many samples as there are training images."""
    suites = [
        {
            "class_path": "ImageMetrics",
            "init_args": {
                "extractor": {"class_path": "DigitsClassifier"},
                "metrics": [type(metric).__name__ for metric in METRICS],
            },
        }
    ]
    return {
        "class_path": "Evaluate",
        "init_args": {
            "suite": {"class_path": "CombinedMetrics", "init_args": {"suites": suites}},
            "count": 1437,
            "every_n_steps": every,
            "teacher": True,
            "teacher_once": True,
        },
    }


def run_config(config: str, updates: int, every: int, folder: Path, *more: str) -> list[dict[str, Any]]:
    """The rows of a shipped config, run through the command line."""
    ema = {"class_path": "EMA", "init_args": {"rule": {"class_path": "ConstantEMA", "init_args": {"decay": 0.99}}}}
    overrides = folder / f"{config}.yaml"
    overrides.write_text(yaml.safe_dump({"trainer": {"callbacks": [ema, evaluate_config(every)]}}), encoding="utf-8")
    command = [sys.executable, "-m", "fastgen", "fit", "--config", f"configs/{config}.yaml", "--config", str(overrides)]
    command += [f"--trainer.max_steps={updates}", f"--trainer.logger.init_args.save_dir={folder}", *more]
    subprocess.run(command, check=True)
    lines = (folder / config / "version_0" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def memorising_run(updates: int, every: int) -> list[dict[str, Any]]:
    """A table with one entry per training image: entry i starts as noise and is pulled to image i."""
    train, _ = load_digits_split()
    suite = make_suite()
    suite.set_reference({"samples": train.x0, "label": train.label})
    table = torch.randn(train.x0.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=10.0 / updates)
    rows: list[dict[str, Any]] = []
    for update in range(updates + 1):
        if update % every == 0:
            suite.reset()
            suite.update(table.detach().clamp(-1, 1), train.label)
            rows.append({"student_updates": update, "values": suite.compute()})
        optimizer.zero_grad()
        (table - train.x0).square().mean().backward()
        optimizer.step()
    return rows


def curves(updates: int) -> dict[str, Any]:
    """Numbers over training of the three runs, and those of the teacher and of held-out scans."""
    every = max(1, updates // 20)
    with tempfile.TemporaryDirectory() as folder:
        good = run_config("sid_digits", updates, every, Path(folder))
        collapsed = run_config("dmd2_digits", updates, every, Path(folder), "--model.init_args.guidance.teacher=8")
    train, test = load_digits_split()
    suite = make_suite()
    suite.set_reference({"samples": train.x0, "label": train.label})
    suite.update(test.x0, test.label)
    once = next(row for row in good if row["role"] == "teacher" and row["nfe"] == 1)
    start = {"student_updates": 0, "values": once["values"]}
    pick = {name: [start, *(row for row in rows if row["role"] != "teacher")] for name, rows in
            (("good", good), ("collapsed", collapsed))}  # fmt: skip
    return {
        "teacher": next(row["values"] for row in good if row["role"] == "teacher" and row["nfe"] > 1),
        "held_out": suite.compute(),
        "runs": {
            name: [{"student_updates": r["student_updates"], "values": r["values"]} for r in rows]
            for name, rows in (pick | {"memorising": memorising_run(updates, every)}).items()
        },
    }


# ---------------------------------------------------------------------- pages


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    values = results["faults"]
    lines = [
        "# Which metric sees which fault",
        "",
        f"`{results['command']}`, {results['date']}, {results['machine']}, "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "",
        f"Mean over {results['splits']} random halvings of the 1797 digits. **Bold**: worse than any untouched half in "
        "every halving, so the fault is seen. *Misled*: better than any untouched half in every halving.",
        "",
        "| metric | " + " | ".join(values) + " |",
        "|---|" + "---|" * len(values),
    ]
    for name in DIRECTION:
        cells = []
        for fault in values:
            text = f"{mean(values[fault][name]):.3g}"
            if fault == "none":
                cells.append(f"{text} ± {pstdev(values[fault][name]):.1g}")
                continue
            seen = verdict(name, values["none"][name], values[fault][name])
            cells.append(f"**{text}**" if seen == "seen" else f"*misled: {text}*" if seen == "misled" else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if "curves" in results:
        found = results["curves"]
        last = {name: rows[-1]["values"] for name, rows in found["runs"].items()}
        columns = {"held-out scans": found["held_out"], "teacher, 35 calls": found["teacher"], **last}
        lines += [
            "",
            f"## Three runs after {results['updates']} updates",
            "",
            "Good: SiD as shipped. Collapsed: DMD2 with teacher guidance 8. Memorising: a table of images pulled to "
            "the training images. All 1437 samples against the 1437 training images; only 360 scans are held out.",
            "",
            "| metric | " + " | ".join(columns) + " |",
            "|---|" + "---|" * len(columns),
        ]
        for name in DIRECTION:
            if all(name in column for column in columns.values()):
                lines.append(f"| {name} | " + " | ".join(f"{column[name]:.3g}" for column in columns.values()) + " |")
        lines += ["", "![curves](metric_faults.png)"]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """The table as colours, and the curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = results["faults"]
    faults = [fault for fault in values if fault != "none"]
    figure = plt.figure(figsize=(13, 12), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    axis = top.subplots()
    colours = {"seen": "#d1495b", "-": "#e9e9e9", "misled": "#3a7ca5"}
    for row, name in enumerate(DIRECTION):
        clean = values["none"][name]
        for column, fault in enumerate(faults):
            seen = verdict(name, clean, values[fault][name])
            axis.add_patch(plt.Rectangle((column, row), 0.96, 0.9, color=colours[seen]))
            text = f"{mean(values[fault][name]):.3g}"
            axis.text(column + 0.48, row + 0.47, text, ha="center", va="center", color="k" if seen == "-" else "w")
        axis.text(len(faults) + 0.05, row + 0.47, f"untouched {mean(clean):.3g}", va="center", color="#555555")
    axis.set(xlim=(0, len(faults) + 1.3), ylim=(len(DIRECTION), 0))
    titles = ["\n".join(textwrap.wrap(fault, 12)) for fault in faults]
    axis.set_xticks([i + 0.48 for i in range(len(faults))], titles)
    axis.set_yticks([i + 0.47 for i in range(len(DIRECTION))], list(DIRECTION))
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title("red: the fault is seen.  blue: the metric is misled (better than real).  grey: not seen")
    if "curves" in results:
        found = results["curves"]
        axes = bottom.subplots(2, 3).flat
        for axis, name in zip(axes, SHOWN, strict=True):
            for run, colour in (("good", "#2a9d8f"), ("collapsed", "#d1495b"), ("memorising", "#3a7ca5")):
                rows = found["runs"][run]
                steps, numbers = [r["student_updates"] for r in rows], [r["values"][name] for r in rows]
                axis.plot(steps, numbers, "o-", ms=3, color=colour, label=run)
            axis.axhline(found["teacher"][name], color="grey", ls="--", lw=1, label="teacher, 35 calls")
            if name == "frechet_over_floor":
                axis.set_yscale("log")
            else:
                axis.set_ylim(-0.03, 1.03)
            axis.set(title=name, xlabel="updates")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Measure, run, write."""
    import lightning

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5, help="halvings for the table")
    parser.add_argument("--updates", type=int, default=500, help="updates of the runs; 0 for the table alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.metric_faults", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, {platform.system()}",
        "versions": {"torch": torch.__version__.split("+")[0], "lightning": lightning.__version__},
        "splits": arguments.splits,
        "updates": arguments.updates,
        "faults": measure_faults(arguments.splits),
    }
    if arguments.updates:
        results["curves"] = curves(arguments.updates)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "metric_faults.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "metric_faults.md").write_text(table(results), encoding="utf-8")
    plot(results, RESULTS / "metric_faults.png")
    print(table(results))


if __name__ == "__main__":
    main()
