"""BufferSampler: clips whose chunks are at noise levels that rise from the first to the last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import Sampler


def levels_of(process: Process, count: int) -> Tensor:
    """The ``count + 1`` times from the clean end to ``t_max`` that part the levels of a buffer, ascending, fp64."""
    inner = process.position(torch.arange(1, count + 1, dtype=torch.float64) / count)
    return torch.cat([torch.tensor([process.t_clean], dtype=torch.float64), inner])


@dataclass(frozen=True)
class BufferSampler(Sampler):
    """Every call takes the chunks that are in turn one level down; one enters when that before has left its level.

    StreamDiT (arXiv 2507.03745). A clip of N chunks takes ``2 N - 1`` calls of the whole clip: the first chunk alone,
    then two, ..., and at the end the last alone. In a stream one call finishes a chunk.

    Args:
        chunk: Frames of a chunk.
        steps: Levels of the buffer; a clip has as many chunks, or fewer.
    """

    chunk: int = 2
    steps: int = 8

    def __post_init__(self) -> None:
        checks.whole(self, chunk=self.chunk)
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        return levels_of(denoiser.process, steps or self.steps).flip(0)[:-1].tolist()

    def trained_steps(self) -> int:
        return self.steps

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The clip; every call records a graph if gradients are enabled."""
        return self.made(denoiser, draws, condition, self.steps, dtype, noise)

    def made(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int,
        dtype: torch.dtype,
        noise: Tensor | None = None,
    ) -> Rollout:
        """A clip by ``steps`` levels."""
        network, process = causal(denoiser), denoiser.process
        levels = levels_of(process, steps).to(draws.device)
        chunks = -(-network.frames // self.chunk)
        x = draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise
        x = process.start(x, levels[-1:].expand(len(draws)))
        place = torch.full((chunks,), steps, dtype=torch.int64, device=draws.device)
        for call in range(steps + chunks - 1):
            turn = torch.arange(chunks, device=draws.device)
            following = (place - ((turn <= call) & (place > 0)).long()).clamp(min=0)
            t, s = (self.per_frame(network, levels[row], len(draws)) for row in (place, following))
            moved = process.jump(denoiser(x, t, condition), s)
            still = self.per_frame(network, (place == following).double(), len(draws)) > 0
            x = torch.where(still.reshape(*still.shape, *[1] * (x.ndim - still.ndim)), x, moved.to(x.dtype))
            place = following
        t = levels[1:2].expand(len(draws))
        return Rollout(x, condition, t, steps - 1, x, torch.full_like(t, process.t_clean))

    def per_frame(self, network: Denoiser, values: Tensor, size: int) -> Tensor:
        """A number for each chunk as one for each frame of ``size`` clips."""
        inner = causal(network)
        return inner.per_frame(values.repeat_interleave(self.chunk)[: inner.frames].expand(size, -1))

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return self.made(denoiser, draws, condition, steps or self.steps, dtype).x0
