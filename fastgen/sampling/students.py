"""Few-step sampling of a student, and rollouts: the same sampler, cut at a step and with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws


@dataclass(frozen=True)
class Rollout:
    """What the student produced and how.

    Attributes:
        x0: The sample that losses judge, (B, ...).
        condition: What was asked for.
        t: The time of the student's last call, (B,).
        step: Index of that call among the sampler's steps.
        anchor: Where the sampler stopped; x0 itself unless a method stops at a noisy level, (B, ...).
        t_anchor: The time of the anchor, (B,).
    """

    x0: Tensor
    condition: Condition
    t: Tensor
    step: int
    anchor: Tensor
    t_anchor: Tensor

    def detach(self) -> Rollout:
        """The same record without its graph."""
        return Rollout(self.x0.detach(), self.condition, self.t, self.step, self.anchor.detach(), self.t_anchor)


def call(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, end: float) -> Prediction:
    """One call of a student; a flow map is told the time ``end`` at which its prediction will be used."""
    s = torch.full_like(t, end) if denoiser.takes_second_time else None
    return denoiser(x_t, t, condition, s)


class StudentSampler:
    """Predict x0, move to the next time, repeat.

    A student with a second time jumps: to the next time, or to data and back if the sampler is stochastic.

    Args:
        times: Times of the student's calls, decreasing, in the units of its process, e.g. 999, 749, 499, 249 for DMD2
            with four steps; ``None`` is one call, at ``level`` or else at ``t_max``.
        stochastic: Move by adding fresh noise to x0 (consistency / LCM style, as in DMD2) instead of keeping the
            predicted noise (DDIM).
        level: Noise level sigma / alpha of the single call, for any process; SiD calls at 2.5.
    """

    def __init__(
        self, times: Sequence[float] | None = None, stochastic: bool = True, level: float | None = None
    ) -> None:
        if times is not None and level is not None:
            raise ValueError("a sampler takes times or a level, not both")
        if times is not None and (len(times) == 0 or any(a <= b for a, b in pairwise(times))):
            raise ValueError(f"student times must be a non-empty decreasing list, got {list(times)}")
        self.times = None if times is None else list(times)
        self.level = level
        self.stochastic = stochastic

    def schedule(self, process: Process, steps: int | None = None) -> list[float]:
        """The times of ``steps`` calls: the trained list if its length fits, else the process's grid from its start."""
        times = self.times or [self.first_time(process)]
        if steps is None or steps == len(times):
            return times
        return process.grid(steps, times[0])

    def first_time(self, process: Process) -> float:
        """Where a single call happens."""
        if self.level is None:
            return process.t_max
        return float(process.time(torch.tensor(self.level, dtype=torch.float64, device="cpu")).clamp(max=process.t_max))

    def trained_steps(self) -> int:
        """Number of calls that the student is trained for."""
        return 1 if self.times is None else len(self.times)

    def run(
        self, denoiser: Denoiser, draws: Draws, condition: Condition, times: Sequence[float], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Call the student at every time; only the last call records a graph.

        Returns:
            x0 (B, ...) and the time of the last call (B,).
        """
        process = denoiser.process
        shape = denoiser.sample_shape
        t = torch.full((len(draws),), times[0], dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", shape, dtype), t)
        for i, following in enumerate(times[1:]):
            with torch.no_grad():
                prediction = call(denoiser, x_t, t, condition, process.t_clean if self.stochastic else following)
                t = torch.full_like(t, following)
                if self.stochastic:
                    x_t = process.add_noise(prediction.x0, draws.normal(f"noise{i + 1}", shape, dtype), t)
                else:
                    x_t = process.jump(prediction, t)
        return call(denoiser, x_t, t, condition, process.t_clean).x0, t

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Generate x0 (B, ...) with ``steps`` calls (default: as trained)."""
        return self.run(denoiser, draws, condition, self.schedule(denoiser.process, steps), dtype)[0]

    def rollout(
        self, denoiser: Denoiser, draws: Draws, condition: Condition, dtype: torch.dtype = torch.float32
    ) -> Rollout:
        """Backward simulation: the student's own chain, stopped at a random step that all ranks share.

        Earlier steps run without gradient (Yin et al. 2024, DMD2, arXiv 2405.14867, section 4.4).
        """
        times = self.schedule(denoiser.process)
        step = draws.shared_integer("step", len(times)) if len(times) > 1 else 0
        x0, t = self.run(denoiser, draws, condition, times[: step + 1], dtype)
        clean = torch.full_like(t, denoiser.process.t_clean)
        return Rollout(x0=x0, condition=condition, t=t, step=step, anchor=x0, t_anchor=clean)
