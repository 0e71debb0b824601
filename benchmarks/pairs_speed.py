"""What ``fastgen pairs`` costs beside the network passes that it cannot do without, on one process and on two.

    python -m benchmarks.pairs_speed                 # the digits' teacher, on CPU cores
    python -m benchmarks.pairs_speed --device cuda

A process makes its shards as the command does (conditions, noise, solver, files), then the same number of bare passes
of the network on batches of the same size, twice in turn; the least of each counts. On CPUs these are processor
seconds. Two processes share the shards by ``--part``. Written to ``benchmarks/results/pairs_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "pairs_speed.md"
ROUNDS = 2
OWN_WIDTH = 16
"""Of the digits' teacher."""


def method_of(device: str, width: int) -> Any:
    """The method of ``configs/kd_digits.yaml`` with its teacher alone; of another width its weights are random."""
    from fastgen.denoisers import UNet
    from fastgen.methods import KD
    from fastgen.processes import EDM

    def teacher() -> Any:
        weights = "asset:teacher_digits.safetensors" if width == OWN_WIDTH else None
        return UNet(EDM(), width=width, num_classes=10, sigma_data=0.75, weights=weights)

    method = KD(teacher=teacher)
    method.build_teacher()
    return method.to(device)


def synchronised(device: str) -> float:
    """The time, once the device has done what it was given; on a CPU that of the process, whatever else runs there."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(part: int, parts: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the command's loop and of the bare passes, the least of some rounds."""
    from fastgen.cli.pair_writing import PairWork, fill

    torch.set_num_threads(1)
    method = method_of(options.device, options.width)
    teacher, calls = method.teacher, method.solver.evaluations(method.solver.steps)
    labels = {"label": torch.arange(options.count) % 10}
    shards = [(s, min(s + options.shard, options.count)) for s in range(0, options.count, options.shard)]
    mine = [shard for i, shard in enumerate(shards) if i % parts == part]
    work = PairWork(method, "teacher", None, 10**9, False, options.batch, labels)
    x = torch.randn(options.batch, *teacher.sample_shape, device=options.device)
    t = torch.full((options.batch,), 5.0, dtype=torch.float64, device=options.device)
    condition = {"label": torch.zeros(options.batch, dtype=torch.int64, device=options.device)}
    batches = sum(-(-(end - start) // options.batch) for start, end in mine)
    loops, bare = [], []
    with torch.no_grad():
        for _ in range(3):
            teacher(x, t, condition)
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                began = synchronised(options.device)
                fill(Path(folder), mine, options.shard, work)
                loops.append(synchronised(options.device) - began)
            began = synchronised(options.device)
            for _ in range(batches * calls):
                teacher(x, t, condition)
            bare.append(synchronised(options.device) - began)
    return {"pairs": sum(end - start for start, end in mine), "loop": min(loops), "bare": min(bare), "calls": calls}


def row(parts: int, options: argparse.Namespace) -> str:
    """Measure so many processes at once."""
    with multiprocessing.get_context("spawn").Pool(parts) as pool:
        found = pool.starmap(measure, [(part, parts, options) for part in range(parts)])
    speed = sum(f["pairs"] / f["loop"] for f in found)
    ratio = sum(f["loop"] for f in found) / sum(f["bare"] for f in found)
    bare = sum(f["pairs"] / f["bare"] for f in found)
    return f"| {parts} | {int(sum(f['pairs'] for f in found))} | {speed:.0f} | {bare:.0f} | {ratio:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--shard", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=OWN_WIDTH, help="of the U-Net; the time around a call is fixed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU, one thread each"
    settings = json.dumps(
        {"count": options.count, "shard": options.shard, "batch": options.batch, "width": options.width}
    )
    lines = [
        "# `fastgen pairs` beside bare network passes",
        "",
        f"`python -m benchmarks.pairs_speed`, torch {torch.__version__.split('+')[0]}, {where}, {settings};",
        "the digits' teacher, 18 Heun steps (35 calls), batches as the command makes them.",
        "",
        "| processes | pairs | pairs / s | of bare passes alone | seconds over bare passes |",
        "|---|---|---|---|---|",
        *(row(parts, options) for parts in (1, 2)),
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines[-2:]))


if __name__ == "__main__":
    main()
