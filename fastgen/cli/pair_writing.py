"""Making pairs and writing them: the network computes while the last shard goes to the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.cli.commands.conditions import slices
from fastgen.conditions import concatenate
from fastgen.methods import Distiller
from fastgen.randomness import Draws
from fastgen.storage.pair_files import rows_of, shard_path, write_shard


@dataclass(frozen=True)
class PairWork:
    """How pairs are made.

    Attributes:
        method: Whose network makes them.
        role: Which network.
        steps: Of its solver or sampler; ``None`` as configured.
        first_seed: Seed of pair 0.
        with_noise: Whether the noise is stored too.
        batch_size: Pairs made at once.
        asked: The raw conditions of all pairs.
    """

    method: Distiller
    role: str
    steps: int | None
    first_seed: int
    with_noise: bool
    batch_size: int
    asked: Mapping[str, Any]

    def batch(self, rows: range) -> dict[str, Any]:
        """The tensors of some pairs, and their encoded condition."""
        seeds = [self.first_seed + i for i in rows]
        condition = slices(dict(self.asked), slice(rows.start, rows.stop))
        with torch.no_grad():
            encoded = self.method.encode_condition(condition)
            x0 = self.method.latents(seeds, encoded, self.steps, self.role)
        tensors: dict[str, Tensor] = {"seed": torch.tensor(seeds), "x0": x0.float().cpu()}
        if self.with_noise:
            tensors["noise"] = Draws(0, seeds, "sample").normal("noise", x0.shape[1:])
        return tensors | {"condition": {name: value.cpu() for name, value in encoded.items()}}


def fill(out: Path, shards: Sequence[tuple[int, int]], shard_size: int, work: PairWork) -> None:
    """Write shards of pairs, given by their first and last; those that are there already are not made again.

    One shard at a time is on its way to the disk. A shard appears whole or not at all, and its bytes depend on its
    pairs alone: not on who else writes, or on whether the work was interrupted.
    """
    from fastgen.callbacks.bars import bar as progress

    waiting: Future[None] | None = None
    total = sum(end - start for start, end in shards)
    with ThreadPoolExecutor(1) as writer, progress(total=total, desc="pairs", unit="pair") as bar:
        for start, end in shards:
            path = shard_path(out, start // shard_size)
            if rows_of(path) >= end - start:
                bar.update(end - start)
                continue
            made = []
            for first in range(start, end, work.batch_size):
                made.append(work.batch(range(first, min(first + work.batch_size, end))))
                bar.update(len(made[-1]["seed"]))
            condition = concatenate([piece.pop("condition") for piece in made])
            if waiting is not None:
                waiting.result()
            waiting = writer.submit(write_shard, path, concatenate(made), condition)
        if waiting is not None:
            waiting.result()
