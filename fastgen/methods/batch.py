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
    """

    x0: Tensor | None
    condition: Condition
    draws: Draws
    memory: dict[str, Any] = field(default_factory=dict)


def size_of(batch: Mapping[str, Any]) -> int:
    """Number of samples of a data module's batch."""
    for value in (batch.get("index"), batch.get("x0"), *batch.get("condition", {}).values()):
        if value is not None:
            return len(value)
    raise UserError("A batch of the data module has no 'index', no 'x0' and no condition; add the samples' numbers.")


def split(batch: Mapping[str, Any], pieces: int, draws: Draws, codec: Codec) -> list[MicroBatch]:
    """Cut a batch into ``pieces`` micro-batches and encode them.

    Raises:
        UserError: If the batch size is no multiple of ``pieces``.
    """
    size = size_of(batch)
    if size % pieces:
        raise UserError(
            f"A batch of {size} cannot be cut into {pieces} equal pieces; change micro_batches or batch_size."
        )
    step = size // pieces
    parts = []
    for start in range(0, size, step):
        rows = slice(start, start + step)
        x0 = batch.get("x0")
        condition = {name: value[rows] for name, value in batch.get("condition", {}).items()}
        with torch.no_grad():
            encoded = None if x0 is None else codec.encode(x0[rows])
            parts.append(MicroBatch(encoded, codec.encode_condition(condition), draws.part(start, start + step)))
    return parts
