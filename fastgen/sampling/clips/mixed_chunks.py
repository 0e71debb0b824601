"""MixedChunkSampler: rollouts of a drawn number of calls per chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.clips.chunks import ChunkSampler
from fastgen.sampling.rollout import Rollout


@dataclass(frozen=True)
class MixedChunkSampler(ChunkSampler):
    """Rollouts have a number of calls per chunk that is drawn for every update and shared by all ranks.

    Salt (Ge et al. 2026, arXiv 2604.03118) mixes 8, 4 and 2 calls, so that one student serves all. The times are the
    process's own grid; samples have ``steps`` calls.

    Args:
        times: The process's own ``grid``.
        level: As in :class:`ChunkSampler`, also what follows.
        steps: As there.
        stop: As there.
        gradient_calls: As there.
        chunk: As there.
        cache: As there.
        exits: As there.
        context_noise: As there.
        first_times: As there.
        length: As there.
        gradient_frames: As there.
        through_memory: As there.
        numbers: The numbers of calls.
        shares: Probability of each, up to a factor.
    """

    steps: int = 4
    numbers: Sequence[int] = (8, 4, 2)
    shares: Sequence[float] = (0.4, 0.4, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_empty(self, numbers=self.numbers)
        checks.whole(self, 1, checks.MOST_STEPS, numbers=self.numbers)
        checks.positive(self, shares=self.shares)
        if self.times != "grid" or len(self.numbers) != len(self.shares):
            raise UserError("MixedChunkSampler calls on the process's own grid, with a share for each of its numbers.")

    def drawn(self, draws: Draws) -> ChunkSampler:
        """The sampler of one update."""
        bounds = list(accumulate(self.shares))
        place = draws.shared_uniform("number") * bounds[-1]
        number = next(n for n, bound in zip(self.numbers, bounds, strict=True) if place < bound)
        own = {field.name: getattr(self, field.name) for field in fields(ChunkSampler)}
        return ChunkSampler(**{**own, "steps": number})

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """A clip of a drawn number of calls."""
        return self.drawn(draws).rollout(denoiser, draws, condition, dtype, noise)
