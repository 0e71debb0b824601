"""What causal students learn at beside their own samples: frames at noise levels of their own, states of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import CausalDenoiser, causal, chunks_of
from fastgen.denoisers.causal.caches import CachePolicy
from fastgen.randomness import Draws
from fastgen.sampling.clips.streams import Stream
from fastgen.sampling.solvers import Solver
from fastgen.shapes import where_rows
from fastgen.times import TimeLaw


def chunk_ranges(network: CausalDenoiser) -> list[range]:
    """The frames of each chunk of the network's clips."""
    return chunks_of(network.frames, network.chunk, network.first_chunk)


def by_chunk(network: CausalDenoiser, values: Sequence[Tensor]) -> Tensor:
    """A number (B,) for each chunk as one for each frame, (B, F)."""
    return torch.cat([v[:, None].expand(-1, len(f)) for v, f in zip(values, chunk_ranges(network), strict=True)], 1)


def chunk_times(network: CausalDenoiser, law: TimeLaw, draws: Draws) -> Tensor:
    """A time for each chunk, independent, as times of the frames (B, F): diffusion forcing (arXiv 2407.01392)."""
    drawn = [law.sample(draws.scoped(f"chunk{i}"), network.process) for i in range(len(chunk_ranges(network)))]
    return by_chunk(network, drawn)


def chunk_steps(network: CausalDenoiser, count: int, draws: Draws) -> Tensor:
    """A step in [0, count) for each chunk, independent, as steps of the frames (B, F), int64."""
    drawn = [draws.scoped(f"chunk{i}").integers("step", count) for i in range(len(chunk_ranges(network)))]
    return by_chunk(network, drawn)


def noised_frames(
    network: CausalDenoiser, x0: Tensor, noise: Tensor, steps: Tensor, times: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Clips (B, ...) whose frames are noised to their ``steps`` (B, F) of ``times``, and the frames' times.

    The first step is the start of a sampler, pure noise; the one after the last time is the clean frame.
    """
    process = network.process
    every = torch.tensor([*times, process.t_clean], dtype=torch.float64, device=x0.device)
    t = network.per_frame(every[steps])
    pure = network.per_frame(steps == 0)
    start = process.start(noise, torch.full((len(x0),), times[0], dtype=torch.float64, device=x0.device))
    return where_rows(pure, start, process.add_noise(x0, noise, t)), t


@torch.no_grad()
def solver_states(
    solver: Solver, network: Denoiser, noise: Tensor, condition: Condition, times: Sequence[float]
) -> list[Tensor]:
    """States (B, ...) of the network's probability flow at decreasing ``times``, and where it ends.

    The solver's own grid is refined by the times. Solvers that look back take each step alone.
    """
    process = network.process
    grid = sorted({*process.solver_grid(solver.steps), *times, process.t_clean}, reverse=True)
    t = torch.full((len(noise),), grid[0], dtype=torch.float64, device=noise.device)
    x, found = process.solver_start(noise, t), {grid[0]: process.solver_start(noise, t)}
    for end in grid[1:]:
        s = torch.full_like(t, end)
        x = solver.step(network, x, t, s, condition)
        found[end], t = x, s
    return [found[time] for time in [*times, process.t_clean]]


@torch.no_grad()
def streamed_states(
    solver: Solver, network: Denoiser, noise: Tensor, condition: Condition, times: Sequence[float], policy: CachePolicy
) -> list[Tensor]:
    """:func:`solver_states` of a causal network, chunk by chunk, each given the clean end of those before it.

    Guided calls without the condition see what conditional calls left behind.
    """
    inner, axis = causal(network), 1 + causal(network).frame_axis
    stream, chunks = Stream(network, policy), []
    for frames in chunk_ranges(inner):
        view = stream.chunk(len(frames))
        states = solver_states(solver, view, noise.narrow(axis, frames.start, len(frames)), condition, times)
        stream.write(view, states[-1], condition)
        chunks.append(states)
    return [torch.cat(state, axis) for state in zip(*chunks, strict=True)]


@torch.no_grad()
def streamed_samples(
    solver: Solver,
    network: Denoiser,
    noise: Tensor,
    condition: Condition,
    steps: int | None,
    policy: CachePolicy,
    draws: Draws | None = None,
) -> Tensor:
    """Clips (B, ...) that a solver makes of noise chunk by chunk, each given the clean ones before it."""
    inner, axis = causal(network), 1 + causal(network).frame_axis
    stream, made = Stream(network, policy), []
    for frames in chunk_ranges(inner):
        view = stream.chunk(len(frames))
        own = None if draws is None else draws.scoped(f"chunk{frames.start}")
        made.append(solver.solve(view, noise.narrow(axis, frames.start, len(frames)), condition, steps, own))
        view.left.clear()
        stream.write(view, made[-1], condition)
    return torch.cat(made, axis)


def gathered(network: CausalDenoiser, states: Sequence[Tensor], steps: Tensor) -> Tensor:
    """Clips whose frames are those of the states that their ``steps`` (B, F) name."""
    chosen = states[-1]
    for number, state in enumerate(states[:-1]):
        chosen = where_rows(network.per_frame(steps == number), state, chosen)
    return chosen
