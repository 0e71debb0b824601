"""What a metric costs: 10,000 samples of 2,048 features against as many, beside torchmetrics and clean-fid.

    python -m benchmarks.metric_cost                    # some four minutes on two CPU cores

Each measurement runs in a process of its own that has the features already and takes them in batches of 500: seconds
from the first feature to the number (reference included), by the clock and on all CPU cores together (which tells more
if the machine is busy), and by how much the peak of the process's memory grew. The features have the decaying spectrum
and the sizes of an Inception network's. Written to ``benchmarks/results/``: ``metric_cost.json``, ``metric_cost.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
BATCH = 500


def make_features(count: int, dimension: int, seed: int) -> Tensor:
    """Non-negative, correlated features (N, D), fp32."""
    g = torch.Generator().manual_seed(7)
    mix = torch.randn(dimension, dimension, generator=g) / torch.arange(1, dimension + 1).sqrt()[:, None]
    g = torch.Generator().manual_seed(seed)
    return 0.4 * (torch.randn(count, dimension, generator=g) @ mix / 2 + 0.3 + 0.02 * seed).relu()


def batches(features: Tensor) -> Iterator[Tensor]:
    return iter(features.split(BATCH))


class Same(nn.Module):
    """Features that are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def ours(component: Any, x: Tensor, y: Tensor) -> dict[str, float]:
    from fastgen.metrics import Pixels

    metric = component.build(Pixels(size=1, channels=x.shape[1]))  # a space of as many features
    metric.set_reference(y)
    for part in batches(x):
        metric.update(part)
    return metric.compute()


def torchmetrics_of(metric: Any, x: Tensor, y: Tensor) -> Any:
    for features, real in ((y, True), (x, False)):
        for part in batches(features):
            metric.update(part, real=real)
    return metric.compute()


def frechet(x: Tensor, y: Tensor) -> float:
    from fastgen.metrics import FrechetDistance

    return ours(FrechetDistance(), x, y)["frechet"]


def frechet_torchmetrics(x: Tensor, y: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return float(torchmetrics_of(FrechetInceptionDistance(feature=Same(x.shape[1])), x, y))


def frechet_clean_fid(x: Tensor, y: Tensor) -> float:
    from cleanfid.fid import fid_from_feats

    return float(fid_from_feats(x.numpy(), y.numpy()))


def kid(x: Tensor, y: Tensor) -> float:
    from fastgen.metrics import KernelDistance

    return ours(KernelDistance(), x, y)["kid"]


def kid_torchmetrics(x: Tensor, y: Tensor) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    return float(torchmetrics_of(KernelInceptionDistance(feature=Same(x.shape[1]), subset_size=1000), x, y)[0])


def kid_clean_fid(x: Tensor, y: Tensor) -> float:
    from cleanfid.fid import kernel_distance

    return float(kernel_distance(x.numpy(), y.numpy()))


def ratio(x: Tensor, y: Tensor) -> float:
    from fastgen.metrics import FrechetRatio

    return ours(FrechetRatio(), x, y)["frechet_over_floor"]


def recall(x: Tensor, y: Tensor) -> float:
    from fastgen.metrics import PrecisionRecall

    return ours(PrecisionRecall(), x, y)["recall"]


def vendi(x: Tensor, y: Tensor) -> float:
    from fastgen.metrics import VendiScore

    return ours(VendiScore(), x, y)["vendi"]


def cmmd(x: Tensor, y: Tensor) -> float:
    from fastgen.metrics import CMMD

    return ours(CMMD(), x, y)["cmmd"]


MEASURED: dict[str, tuple[str, str, Callable[[Tensor, Tensor], float]]] = {
    "frechet": ("Fréchet distance", "fastgen", frechet),
    "frechet_torchmetrics": ("Fréchet distance", "torchmetrics", frechet_torchmetrics),
    "frechet_clean_fid": ("Fréchet distance", "clean-fid", frechet_clean_fid),
    "kid": ("kernel distance, all pairs", "fastgen", kid),
    "kid_torchmetrics": ("kernel distance, 100 subsets of 1,000", "torchmetrics", kid_torchmetrics),
    "kid_clean_fid": ("kernel distance, 100 subsets of 1,000", "clean-fid", kid_clean_fid),
    "recall": ("precision, recall, density, coverage (the value is the recall)", "fastgen", recall),
    "vendi": ("Vendi score", "fastgen", vendi),
    "cmmd": ("CMMD", "fastgen", cmmd),
    "ratio": ("Fréchet ratio to the floor, 4 halvings", "fastgen", ratio),
}


def peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, folder: Path) -> None:
    """In a process of its own: one JSON line."""
    x, y = (torch.from_numpy(np.load(folder / f"{side}.npy")) for side in ("x", "y"))
    small = slice(0, 64)
    MEASURED[name][2](x[:1200, small].contiguous(), y[:1200, small].contiguous())  # imports and first calls
    before, began, worked = peak(), time.perf_counter(), time.process_time()
    value = MEASURED[name][2](x, y)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    row = {"value": value, "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "bytes": peak() - before}
    print(json.dumps(row))


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# What metrics cost",
        "",
        f"`{results['command']}`, {results['date']}, {results['machine']}, "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "",
        f"{results['count']:,} samples of {results['features']:,} features against as many, each in its own process. "
        "CPU seconds are summed over cores. Memory is the growth of the process's peak without the features given.",
        "",
        "| metric | by | value | CPU seconds | seconds | memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        metric, by, _ = MEASURED[name]
        costs = f"{row['cpu_seconds']:.1f} | {row['seconds']:.1f} | {row['bytes'] / 2**20:.0f}"
        lines.append(f"| {metric} | {by} | {row['value']:.8g} | {costs} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the features, start the processes, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"default all of: {', '.join(MEASURED)}")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--only", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.only[0], Path(arguments.only[1]))
        return
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.metric_cost", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
        "versions": {name: version(name).split("+")[0] for name in ("torch", "torchmetrics", "clean-fid", "scipy")},
        "count": arguments.count,
        "features": arguments.features,
        "rows": {},
    }
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed, side in enumerate(("x", "y")):
            np.save(Path(folder) / f"{side}.npy", make_features(arguments.count, arguments.features, seed).numpy())
        for name in arguments.names or MEASURED:
            command = [sys.executable, "-m", "benchmarks.metric_cost", "--only", name, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results["rows"][name] = json.loads(done.stdout.splitlines()[-1])
            print(name, results["rows"][name], flush=True)
            (RESULTS / "metric_cost.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            (RESULTS / "metric_cost.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
