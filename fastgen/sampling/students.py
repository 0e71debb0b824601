"""Few-step sampling of a student, and rollouts: the same sampler, cut at a step and with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.times import TimeLaw


@dataclass(frozen=True)
class Rollout:
    """What the student produced and how.

    Attributes:
        x0: The sample that losses judge, (B, ...).
        condition: What was asked for.
        t: The time of the student's last call, (B,).
        step: Index of that call among the sampler's steps, one for all samples or one for each (B,).
        anchor: Where the sampler stopped; x0 itself unless a method stops at a noisy level, (B, ...).
        t_anchor: The time of the anchor, (B,).
    """

    x0: Tensor
    condition: Condition
    t: Tensor
    step: int | Tensor
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
        level: Noise level sigma / alpha of the first call, for any process; SiD calls at 2.5.
        steps: Number of calls without ``times``: the process's own grid, down from the first call.
    """

    def __init__(
        self,
        times: Sequence[float] | None = None,
        stochastic: bool = True,
        level: float | None = None,
        steps: int = 1,
    ) -> None:
        checks.not_empty(self, times=times)
        checks.not_negative(self, times=times)
        checks.whole(self, 1, checks.MOST_STEPS, steps=steps)
        checks.positive(self, level=level)
        if times is not None and level is not None:
            raise UserError(f"{type(self).__name__} takes times or a level, not both; leave one out.")
        if times is not None and any(a <= b for a, b in pairwise(times)):
            raise UserError(f"{type(self).__name__}: student times must be a decreasing list, got {list(times)}.")
        if times is not None and steps not in (1, len(times)):
            raise UserError(f"{type(self).__name__} takes times or steps, not both; leave out steps, here {steps}.")
        self.times = None if times is None else list(times)
        self.level = level
        self.stochastic = stochastic
        self.steps = steps if times is None else len(times)

    def schedule(self, process: Process, steps: int | None = None) -> list[float]:
        """The times of ``steps`` calls: the trained list if its length fits, else the process's grid from its start.

        Raises:
            UserError: If the trained list has times at which networks of the process are not called.
        """
        if self.times is not None and not process.t_clean < self.times[-1] <= self.times[0] <= process.t_max:
            raise UserError(
                f"The student is to be called at {self.times}, but its process is called above {process.t_clean:g} and "
                f"up to {process.t_max:g}; change sampler.times, or give a student on the process that they belong to."
            )
        count = self.steps if steps is None else steps
        if self.times is not None and count == len(self.times):
            return self.times
        first = self.times[0] if self.times is not None else self.first_time(process)
        return [first] if count == 1 else process.student_grid(count, first)

    def first_time(self, process: Process) -> float:
        """Where the first call happens, unless ``times`` say it."""
        if self.level is None:
            return process.t_max
        return float(process.time(torch.tensor(self.level, dtype=torch.float64, device="cpu")).clamp(max=process.t_max))

    def trained_steps(self) -> int:
        """Number of calls that the student is trained for."""
        return self.steps

    def run(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        times: Sequence[float],
        dtype: torch.dtype,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Call the student at every time; only the last call records a graph. The first noise is drawn or given.

        Returns:
            x0 (B, ...) and the time of the last call (B,).
        """
        process = denoiser.process
        shape = denoiser.sample_shape
        t = torch.full((len(draws),), times[0], dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", shape, dtype) if noise is None else noise, t)
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
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """Backward simulation: the student's own chain, stopped at a random step that all ranks share.

        Earlier steps run without gradient (Yin et al. 2024, DMD2, arXiv 2405.14867, section 4.4). The first ``noise``
        (B, ...) is drawn unless it is given.
        """
        times = self.schedule(denoiser.process)
        step = draws.shared_integer("step", len(times)) if len(times) > 1 else 0
        x0, t = self.run(denoiser, draws, condition, times[: step + 1], dtype, noise)
        clean = torch.full_like(t, denoiser.process.t_clean)
        return Rollout(x0=x0, condition=condition, t=t, step=step, anchor=x0, t_anchor=clean)


class AnytimeSampler(StudentSampler):
    """A student for any number of calls; rollouts make a random number of them, at random times.

    Each call after the first happens at a time drawn for every sample, or where the last one did if that was cleaner,
    on fresh noise (Zheng et al. 2025, rCM, arXiv 2510.08431, and its code, which cycles through the numbers).

    Args:
        time: Law of the times of further calls.
        level: Noise level sigma / alpha of the first call; default ``t_max``.
        steps: Largest number of calls of a rollout, and the number of calls of a sample.
    """

    def __init__(self, time: TimeLaw, level: float | None = None, steps: int = 4) -> None:
        super().__init__(level=level, steps=steps)
        self.time = time

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """One to ``steps`` calls, a number that all ranks share; only the last records a graph."""
        process, shape = denoiser.process, denoiser.sample_shape
        t = torch.full((len(draws),), self.first_time(process), dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", shape, dtype) if noise is None else noise, t)
        calls = draws.shared_integer("step", self.steps)
        for i in range(1, calls + 1):
            with torch.no_grad():
                x0 = call(denoiser, x_t, t, condition, process.t_clean).x0
            t = torch.minimum(t, self.time.sample(draws.scoped(f"call{i}"), process))
            x_t = process.add_noise(x0, draws.normal(f"noise{i}", shape, dtype), t)
        x0 = call(denoiser, x_t, t, condition, process.t_clean).x0
        return Rollout(x0, condition, t, calls, x0, torch.full_like(t, process.t_clean))


class TrajectorySampler(StudentSampler):
    """The student as a deterministic solver; rollouts stop where one of its steps ends.

    Args:
        times: Times of the student's calls, decreasing; ``None`` is the process's own grid.
        level: Noise level sigma / alpha of the first call without ``times``; default ``t_max``.
        steps: Number of calls without ``times``.
    """

    def __init__(self, times: Sequence[float] | None = None, level: float | None = None, steps: int = 4) -> None:
        super().__init__(times, stochastic=False, level=level, steps=steps if times is None else len(times))

    def rollout(
        self, denoiser: Denoiser, draws: Draws, condition: Condition, dtype: torch.dtype = torch.float32
    ) -> Rollout:
        """The whole trajectory without gradient; every sample takes a random one of its steps again, with gradient.

        The anchor is where that step ends (Luo et al. 2025, TDM, arXiv 2503.06674). No gradient runs through it.
        """
        process, times = denoiser.process, self.schedule(denoiser.process)
        ends = [*times[1:], process.t_clean]
        step = draws.integers("step", len(times))
        starts_at, ends_at = (torch.tensor(grid, dtype=torch.float64, device=draws.device) for grid in (times, ends))
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, dtype), starts_at[:1].expand(len(draws)))
        chosen = x_t
        with torch.no_grad():
            for i in range(len(times) - 1):
                x_t = process.jump(
                    denoiser(x_t, starts_at[i].expand(len(draws)), condition), ends_at[i].expand(len(draws))
                )
                chosen = torch.where((step == i + 1).reshape(-1, *[1] * (x_t.ndim - 1)), x_t, chosen)
        t, t_anchor = starts_at[step], ends_at[step]
        prediction = denoiser(chosen, t, condition)
        anchor = process.jump(prediction.detach(), t_anchor)
        return Rollout(prediction.x0, condition, t, step, anchor, t_anchor)


class PhasedSampler(StudentSampler):
    """The student as a deterministic solver in phases; rollouts stop where one of the phases ends.

    Args:
        times: Times of the student's calls, decreasing; ``None`` is the process's own grid.
        level: Noise level sigma / alpha of the first call without ``times``; default ``t_max``.
        steps: Number of calls without ``times``.
        phases: Number of phases, all of the same number of calls.
    """

    def __init__(
        self, times: Sequence[float] | None = None, level: float | None = None, steps: int = 4, phases: int = 2
    ) -> None:
        checks.whole(self, phases=phases)
        super().__init__(times, stochastic=False, level=level, steps=steps if times is None else len(times))
        if self.steps % phases:
            raise UserError(
                f"PhasedSampler cannot cut {self.steps} steps into {phases} equal phases; change one of them."
            )
        self.phases = phases

    def phase(self, step: int) -> int:
        """The phase of a step; 0 is the noisiest."""
        return step * self.phases // self.steps

    def boundaries(self, process: Process) -> list[float]:
        """The times at which one phase ends and the next begins."""
        length = self.steps // self.phases
        return self.schedule(process)[length::length]

    def rollout(
        self, denoiser: Denoiser, draws: Draws, condition: Condition, dtype: torch.dtype = torch.float32
    ) -> Rollout:
        """The chain up to a random step that all ranks share, which jumps to the end of its phase, the anchor.

        Only that step records a graph, for x0; no gradient runs through the anchor (Fan et al. 2025, Phased DMD, arXiv
        2510.27684, with a random gradient step within the phase).
        """
        process, times = denoiser.process, self.schedule(denoiser.process)
        step = draws.shared_integer("step", len(times))
        end = [*self.boundaries(process), process.t_clean][self.phase(step)]
        t = [torch.full((len(draws),), time, dtype=torch.float64, device=draws.device) for time in (*times, end)]
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, dtype), t[0])
        for i in range(step):
            with torch.no_grad():
                x_t = process.jump(call(denoiser, x_t, t[i], condition, times[i + 1]), t[i + 1])
        prediction = call(denoiser, x_t, t[step], condition, end)
        return Rollout(prediction.x0, condition, t[step], step, process.jump(prediction.detach(), t[-1]), t[-1])
