"""What an update of a large model costs on a GPU: networks of released sizes with random weights, no downloads.

    python -m benchmarks.gpu                                       # SDXL, FLUX.1 and Qwen-Image, DMD2 with adapters
    python -m benchmarks.gpu --model qwenimage --height 1024 --batch 1
    python -m benchmarks.gpu --model sdxl --full                   # student and critic are networks of their own
    python -m benchmarks.gpu --model sdxl --method SiD
    python -m benchmarks.gpu --tiny                                # the whole program with tiny networks, on the CPU

The methods and denoisers are the library's, trained by Lightning's Trainer; only the weights and prompts are random.
With adapters (the default) student and critic are LoRA roles on one frozen base. Activations are recomputed in the
backward pass (gradient checkpointing). The student takes one call; the teacher is guided as in the shipped configs.

A turn is one optimizer step of a role. Its floating-point operations are counted by ``torch.utils.flop_counter``
(matrix products, convolutions, attention; recomputed ones too) in a pass that is not timed, and divided by the median
seconds of the timed ones. The yardstick is a large bf16 matrix product in the same process. Memory is the peak that
torch has allocated. Rows go into ``benchmarks/results/gpu.json`` and ``gpu.md``, beside those of earlier commands.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.geometries import GEOMETRIES, TINY_HEIGHT, Geometry
from fastgen import checks
from fastgen.callbacks.throughput import peak_memory_gib
from fastgen.conditions import Guidance
from fastgen.data.base import DistillationData
from fastgen.data.sources import BatchSource
from fastgen.denoisers.wrappers.lora import LoRA, LowRank
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import DMD2, SiD
from fastgen.methods.distribution_matching.base import ScoreDistiller

RESULTS = Path(__file__).parent / "results"
SHARED = "critic on the student's samples"
WARM_UP = 2
"""Student updates before the timed ones: one to warm up, one to count operations."""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_tflops(device: torch.device, size: int) -> float:
    """Speed of a bf16 product of two square matrices, in 10^12 operations per second; median of 20."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(25):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[5:]) / 1e12


def gibibytes(modules: Sequence[nn.Module]) -> float:
    """Memory of the parameters and buffers of some modules, each once."""
    tensors = {id(x): x for module in modules for x in (*module.parameters(), *module.buffers())}
    return sum(x.numel() * x.element_size() for x in tensors.values()) / 2**30


class RandomConditions(DistillationData):
    """The same random embeddings again and again.

    Args:
        shapes: Shape of each entry of a condition, without the batch axis.
        batch_size: Samples per batch.
    """

    sample_kind = "image"

    def __init__(self, shapes: dict[str, tuple[int, ...]], batch_size: int) -> None:
        super().__init__(batch_size)
        g = torch.Generator().manual_seed(0)
        self.condition: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            for prefix in ("", "null_"):
                entry = torch.randn(batch_size, *shape, generator=g)
                self.condition[prefix + name] = torch.ones_like(entry).bool() if "mask" in name else entry

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        class Same(BatchSource):
            size = None

            def batch(this, indices: Sequence[int]) -> dict[str, Any]:
                return {"condition": self.condition, "encoded": True}

        return Same(), Same()


def measured(cls: type[ScoreDistiller]) -> type[Any]:
    """The method with a stopwatch and an operation counter around its turns."""

    class Measured(cls):  # type: ignore[valid-type, misc]
        read_weights = False

        def configure_model(self) -> None:
            super().configure_model()
            for module in self.modules():
                if isinstance(module, LowRank):  # not zero, so that no role is its teacher and no gradient vanishes
                    nn.init.normal_(module.up.weight, std=1e-3)
            self.seconds: dict[str, list[float]] = defaultdict(list)
            self.flops: dict[str, int] = {}

        def on_train_start(self) -> None:
            self.build_peak = peak_memory_gib(self.device)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)

        def on_train_end(self) -> None:  # Lightning moves the networks to the CPU after it
            self.peak = peak_memory_gib(self.device)

        def update(self, role: str, parts: Sequence[MicroBatch]) -> None:
            turn = SHARED if role == "critic" and "critic" in parts[0].rollouts else role
            number = self.iteration // self.schedule.critic_updates  # of the student update
            if number == WARM_UP - 1:
                with FlopCounterMode(display=False) as counter:
                    super().update(role, parts)
                self.flops[turn] = counter.get_total_flops()
                return
            synchronize(self.device)
            began = time.perf_counter()
            super().update(role, parts)
            synchronize(self.device)
            if number >= WARM_UP:
                self.seconds[turn].append(time.perf_counter() - began)

    return Measured


def build(geometry: Geometry, folder: Path, arguments: argparse.Namespace) -> ScoreDistiller:
    """The method; networks are made later, on the device."""
    settings: dict[str, Any] = {
        "teacher": partial(
            geometry.denoiser,
            str(folder),
            resolution=arguments.height,
            gradient_checkpointing=not arguments.keep_activations,
        ),
        "student_optimizer": partial(torch.optim.AdamW, lr=1e-5),
        "critic_optimizer": partial(torch.optim.AdamW, lr=1e-5),
        "max_bad_steps": checks.LARGEST_INTEGER,  # counted in the row
    }
    if not arguments.full:
        settings |= {"student": LoRA(arguments.rank), "critic": LoRA(arguments.rank)}
    if arguments.method == "SiD":
        return measured(SiD)(guidance=Guidance(2.0, 2.0, 2.0), **settings)  # SiD-LSG
    return measured(DMD2)(guidance=Guidance(teacher=geometry.guidance), **settings)


def measure(geometry: Geometry, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: train for a few updates on the device."""
    tiny = arguments.tiny
    device = torch.device("cpu" if tiny else "cuda")
    product = matmul_tflops(device, 256 if tiny else 8192)
    with tempfile.TemporaryDirectory() as place:
        folder = geometry.write(Path(place), tiny)
        method = build(geometry, folder, arguments)
        with torch.device("meta"):
            shapes = method.factories["teacher"]().condition_shapes()
        tokens = 7 if tiny else geometry.tokens
        sized = {k: (tokens, *v[1:]) if k in ("prompt_embeds", "prompt_mask") else v for k, v in shapes.items()}
        trainer = Trainer(
            accelerator="cpu" if tiny else "gpu",
            devices=1,
            precision=arguments.precision,
            max_epochs=1,
            limit_train_batches=(WARM_UP + arguments.steps) * method.schedule.critic_updates,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(method, RandomConditions(sized, arguments.batch))
    row = summary(method)
    row["matmul_tflops"] = product
    row["device"] = "CPU" if tiny else torch.cuda.get_device_name()
    return row


def summary(method: Any) -> dict[str, Any]:
    """Seconds, operations and memory of a method that was trained with :func:`measured`."""
    updates = len(method.seconds["student"])
    turns = {
        turn: {
            "per_update": len(seconds) / updates,
            "seconds": statistics.median(seconds),
            "tflop": method.flops[turn] / 1e12,
            "tflops": method.flops[turn] / statistics.median(seconds) / 1e12,
        }
        for turn, seconds in method.seconds.items()
    }
    total = {name: sum(turn["per_update"] * turn[name] for turn in turns.values()) for name in ("seconds", "tflop")}
    networks = [method.teacher, method.student, method.critic]
    return {
        "parameters": sum(p.numel() for p in method.teacher.parameters()),
        "trained": {role: sum(p.numel() for p in own) for role, own in method.trained_parameters.items()},
        "turns": turns,
        "update_seconds": total["seconds"],
        "update_tflops": total["tflop"] / total["seconds"],
        "weights_gib": gibibytes(networks),
        "build_peak_gib": method.build_peak,
        "peak_gib": method.peak,
        "skipped_updates": method.bad_steps_total,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# What an update costs on a GPU",
        "",
        "Networks of the released sizes with random weights. A student update comes with its critic updates: five for "
        "DMD2, one for SiD. TFLOP/s count recomputed operations too; the share is that of a bf16 product of two 8192 x "
        "8192 matrices in the same process.",
        "",
        "| run | device | parameters | trained, student + critic | student's turn, s | critic's turn, s | "
        "student update, s | TFLOP/s | share of the product | weights, GiB | peak while building | peak in training |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        turns, trained = row["turns"], row["trained"]
        lines.append(
            f"| {name} | {row['device']} | {row['parameters'] / 1e9:.2f} B | {trained['student'] / 1e6:.0f} M + "
            f"{trained['critic'] / 1e6:.0f} M | {turns['student']['seconds']:.3f} | {turns['critic']['seconds']:.3f} | "
            f"{row['update_seconds']:.3f} | {row['update_tflops']:.4g} | "
            f"{row['update_tflops'] / row['matmul_tflops']:.2f} of {row['matmul_tflops']:.4g} | "
            f"{row['weights_gib']:.1f} | {row['build_peak_gib']:.1f} | {row['peak_gib']:.1f} |"
        )
    lines += ["", *(f"- {name}: `{row['command']}`, {row['date']}, {row['versions']}" for name, row in rows.items())]
    return "\n".join(lines) + "\n"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=list(GEOMETRIES), default=list(GEOMETRIES))
    parser.add_argument("--method", choices=["DMD2", "SiD"], default="DMD2")
    roles = parser.add_mutually_exclusive_group()
    roles.add_argument("--adapters", dest="full", action="store_false", help="student and critic are LoRA roles")
    roles.add_argument("--full", action="store_true", help="student and critic are networks of their own")
    parser.set_defaults(full=False)
    parser.add_argument("--rank", type=int, default=64, help="of the adapters")
    parser.add_argument("--height", type=int, default=1024, help="and width of images, in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="student updates to time")
    parser.add_argument("--precision", choices=["bf16-true", "bf16-mixed", "32-true"], default="bf16-true")
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results, none with --tiny")
    arguments = parser.parse_args(argv)
    if arguments.tiny:
        arguments.height, arguments.rank = TINY_HEIGHT, 4
    else:
        arguments.out = arguments.out or RESULTS
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse(argv)
    if not arguments.tiny and not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device and finds none; --tiny runs it on the CPU.", file=sys.stderr)
        return 2
    rows: dict[str, dict[str, Any]] = {}
    failed = False
    for model in arguments.model:
        roles = "full" if arguments.full else f"LoRA {arguments.rank}"
        kept = ", activations kept" if arguments.keep_activations else ""
        name = f"{model}, {arguments.method}, {roles}, {arguments.height} px, batch {arguments.batch}, "
        name += f"{arguments.precision}{kept}"
        try:
            rows[name] = measure(GEOMETRIES[model], arguments) | {
                "command": " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)]),
                "date": datetime.date.today().isoformat(),
                "versions": ", ".join(f"{k} {version(k)}" for k in ("torch", "diffusers", "lightning")),
            }
        except torch.OutOfMemoryError as error:
            print(f"{name}: does not fit ({str(error).splitlines()[0]})", file=sys.stderr)
            failed = True
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        save(rows, arguments.out)
    print(table(rows))
    return int(failed)


def save(rows: dict[str, dict[str, Any]], folder: Path | None) -> None:
    """Write the rows beside those that are there."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | rows, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(table(known | rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
