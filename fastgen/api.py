"""The library from Python: train, load, sample, evaluate, hand over. ``fastgen.train`` and the others lead here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastgen import checks
from fastgen.cli.commands.conditions import conditions, slices
from fastgen.cli.commands.export import Format, write_export
from fastgen.cli.commands.loading import method_on
from fastgen.cli.training import Run, train
from fastgen.methods import Distiller
from fastgen.metrics.evaluation import evaluate
from fastgen.refusals import refuse_unwritable

__all__ = ["Run", "evaluate", "load", "sample", "to_diffusers", "train"]


def load(
    checkpoint: str | os.PathLike[str], *, teacher: bool = False, trust: Iterable[str] = (), device: str | None = None
) -> Distiller:
    """The method that wrote a checkpoint, ready to sample; needs no config.

    Nothing is run but classes of fastgen and of the modules that you trust, whatever the file says.

    Args:
        checkpoint: File of :func:`train` or ``fastgen fit``.
        teacher: Read the teacher's weights too, to sample from it and to compare with it.
        trust: Modules whose classes the checkpoint may name, e.g. of a method of your own.
        device: As torch names it; default a GPU if there is one.

    Raises:
        UserError: If the checkpoint or the device is unusable, or names classes that are not trusted.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return method_on(os.fspath(checkpoint), place, teacher, trust)


def sample(
    method: Distiller,
    seeds: Sequence[int] = range(16),
    *,
    prompts: Sequence[str] = (),
    labels: Sequence[int] = (),
    steps: int | None = None,
    role: str = "average",
    batch_size: int = 64,
) -> Tensor:
    """Samples, one for each seed; the same as those of ``fastgen sample``.

    Args:
        method: Of :func:`train` or :func:`load`.
        seeds: A sample is a function of its seed, its condition and the weights.
        prompts: Texts to cycle through, where the method makes pictures from text.
        labels: Classes to cycle through; default all, where there are classes.
        steps: Network calls per sample; default as trained.
        role: ``average`` (the EMA), ``student``, ``teacher`` or an EMA's name.
        batch_size: Samples at once.

    Returns:
        Images (B, C, H, W), nominally in [-1, 1], or points (B, D); fp32, on the CPU.
    """
    checks.not_empty("sample", seeds=list(seeds))
    checks.seed("sample", seeds=list(seeds))
    checks.whole("sample", batch_size=batch_size)
    condition = conditions(method.student, len(seeds), list(labels), list(prompts))
    rows = [slice(start, start + batch_size) for start in range(0, len(seeds), batch_size)]
    return torch.cat([method.sample(list(seeds)[r], slices(condition, r), steps, role).cpu() for r in rows])


def to_diffusers(
    method: Distiller,
    out: str | os.PathLike[str],
    *,
    format: Format = "pipeline",
    steps: int | None = None,
    role: str = "average",
) -> Path:
    """Write a student as a folder that diffusers loads without fastgen, as ``fastgen export`` does.

    Args:
        method: Of :func:`train` or :func:`load`.
        out: The folder, new or empty.
        format: ``pipeline`` (a whole one; adapters are merged), or a LoRA: ``lora`` in diffusers' names, ``kohya``.
        steps: Network calls per sample, which the scheduler is told; default as trained.
        role: ``average`` (the EMA), ``student`` or an EMA's name.

    Raises:
        UserError: If the student cannot be expressed in diffusers.
    """
    refuse_unwritable(out, folder=True)
    write_export(method, Path(out), format, steps, role)
    return Path(out)
