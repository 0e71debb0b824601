"""A plan as text: what is needed, whether it fits, and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fastgen.denoisers.diffusers.codec import PipelineCodec
from fastgen.denoisers.diffusers.pipeline_files import local_folder
from fastgen.distiller.base import Distiller
from fastgen.planning.cards import CARDS
from fastgen.planning.estimate import Estimate

GIB = 2**30
SHARDED = ("FSDP2",)
"""Strategies that give every process a part of every network."""


@dataclass(frozen=True)
class Situation:
    """Where a run is to take place.

    Attributes:
        card: Name of the GPU.
        gpus: Processes.
        share: Of the card's stated speed.
        reserve: GiB that no tensor gets.
        trainer: The trainer's section of the config.
    """

    card: str
    gpus: int = 1
    share: float = 0.4
    reserve: float = 3.0
    trainer: Mapping[str, Any] = field(default_factory=dict)


def page(found: Estimate, method: Distiller, batch: int, at: Situation) -> str:
    """What is printed."""
    card, gpus = CARDS[at.card], at.gpus
    sharded = gpus > 1 and any(name in str(at.trainer.get("strategy")) for name in SHARDED)
    parts = memory(found, method, gpus if sharded else 1)
    need, room = sum(parts.values()), card.gib - at.reserve
    lines = [f"{type(method).__name__}, {batch} samples a GPU, {gpus} x {at.card}", ""]
    for role, number in found.parameters.items():
        learns = f", {found.trained[role]:,} of them its own and trained" if role in found.trained else ", frozen"
        lines.append(f"{role + ' parameters':28} {number:>18,}{learns}")
    lines += ["", *(f"{name:28} {size / GIB:12.3f} GiB" for name, size in parts.items())]
    lines += [f"{'all, per GPU':28} {need / GIB:12.3f} GiB of {room:g} GiB", ""]
    for turn in found.turns:
        calls = " + ".join(f"{number:g} {kind}" for kind, number in turn.calls.items() if number)
        name = f"{turn.count} x {turn.role}"
        lines.append(f"{name:28} {turn.flops / 1e12:12.4f} TFLOP each; network calls a sample: {calls or 'none'}")
    seconds = found.flops / (card.tflops * 1e12 * at.share)
    steps = int(at.trainer.get("max_steps", -1))
    hours = "" if steps < 0 else f", {steps:,} of them {steps * seconds / 3600:.2f} h"
    lines.append(f"{'a student update':28} {found.flops / 1e12:12.4f} TFLOP, {seconds:.4g} s{hours}")
    lines.append(f"(at {at.share:g} of {card.tflops:g} TFLOP/s in bf16; measure the share with 'Throughput')")
    if need / GIB > room:
        lines += [
            "",
            "It does not fit. What would help, most first:",
            *(f"- {x}" for x in remedies(found, parts, sharded)),
        ]
    return "\n".join(lines)


def memory(found: Estimate, method: Distiller, shards: int) -> dict[str, float]:
    """Bytes of one process by what they are for; what is sharded is divided by ``shards``."""
    held = {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer states": found.optimizers,
        "averages": found.averages,
    }
    parts = {name: size / shards for name, size in held.items()}
    return parts | {"activations, at most": found.activations, "VAE and text encoders": encoders(method)}


def encoders(method: Distiller) -> int:
    """Bytes of the codec's parts, by their files; 0 for a pipeline that is not here."""
    codec = method.codec
    if not isinstance(codec, PipelineCodec) or not codec.pipeline.is_local:
        return 0
    total = 0
    for folder in Path(local_folder(codec.pipeline.pretrained)).iterdir():
        if folder.name == "vae" or folder.name.startswith("text_encoder"):
            width = 4 if folder.name == "vae" else codec.text_dtype.itemsize
            total += sum(elements(file) for file in folder.glob("*.safetensors")) * width
    return total


def elements(file: Path) -> int:
    """Number of numbers in a file of tensors, by its header."""
    with safe_open(file, framework="pt") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def remedies(found: Estimate, parts: Mapping[str, float], sharded: bool) -> list[str]:
    """What would make a run smaller, by how much of it that concerns."""
    own = found.gradients + found.optimizers + found.averages
    ranked = [
        (
            own,
            "adapters (student and critic: {class_path: LoRA}): gradients, optimizer states and copies nearly vanish",
        ),
        (0 if sharded else found.weights + own, "more GPUs with the strategy FSDP2, which divides all of that"),
        (found.weights / 2, "trainer.precision: bf16-true, where frozen weights are fp32 now"),
        (
            found.activations / 2,
            "teacher.init_args.gradient_checkpointing: true, or a smaller data.init_args.batch_size",
        ),
        (found.activations / 2, "model.init_args.micro_batches: pieces of a batch, one after the other"),
        (parts["VAE and text encoders"] / 2, "teacher.init_args.text_dtype: bfloat16"),
    ]
    return [f"{text} (up to {size / GIB:.3g} GiB)" for size, text in sorted(ranked, key=lambda x: -x[0]) if size > 0]
