"""One micro-batch as a method sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec
from fastgen.errors import UserError
from fastgen.randomness import Draws


@dataclass
class MicroBatch:
    """A piece of a batch, already in the denoiser's space.

    Attributes:
        x0: Real samples (B, ...), or ``None`` for data-free training.
        condition: Tensors for the denoiser.
        draws: The random numbers of these samples.
        memory: What one role leaves for another within the iteration, e.g. a shared rollout.
        noise: What the samples were made from (B, ...), if the data module knows it (pairs).
        asked: The condition as the data module gave it, e.g. with prompts as text.
    """

    x0: Tensor | None
    condition: Condition
    draws: Draws
    memory: dict[str, Any] = field(default_factory=dict)
    noise: Tensor | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)


def size_of(batch: Mapping[str, Any]) -> int:
    """Number of samples of a data module's batch."""
    for value in (batch.get("index"), batch.get("x0"), *batch.get("condition", {}).values()):
        if value is not None:
            return len(value)
    raise UserError("A batch of the data module has no 'index', no 'x0' and no condition; add the samples' numbers.")


def split(batch: Mapping[str, Any], pieces: int, draws: Draws, codec: Codec) -> list[MicroBatch]:
    """Cut a batch into ``pieces`` micro-batches and encode them, unless the data module says that they are encoded.

    Raises:
        UserError: If the batch size is no multiple of ``pieces``.
    """
    size = size_of(batch)
    if size % pieces:
        raise UserError(
            f"A batch of {size} cannot be cut into {pieces} equal pieces; change micro_batches or batch_size."
        )
    step = size // pieces
    x0, noise, encoded = batch.get("x0"), batch.get("noise"), batch.get("encoded", False)
    parts = []
    for start in range(0, size, step):
        rows = slice(start, start + step)
        asked = {name: value[rows] for name, value in batch.get("condition", {}).items()}
        with torch.no_grad():
            part = MicroBatch(
                None if x0 is None else x0[rows] if encoded else codec.encode(x0[rows]),
                asked if encoded else codec.encode_condition(asked),
                draws.part(start, start + step),
                noise=None if noise is None else noise[rows],
                asked=asked,
            )
        parts.append(part)
    return parts
