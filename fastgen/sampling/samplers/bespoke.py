"""BespokeSampler: Runge-Kutta steps whose times and scales are the student's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.borrowed import WithNumbers
from fastgen.denoisers.wrappers.policy import FLOW, flow_time
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.runge_kutta import Node, flow_velocity_of, rk1_step, rk2_step
from fastgen.sampling.samplers.base import Sampler
from fastgen.sharding import whole


@dataclass(frozen=True)
class BespokeSampler(Sampler):
    """Steps in the time of rectified flow, from the process's noisiest level to data.

    Args:
        steps: Number of steps.
        order: 1 is one call a step (RK1, Euler at first), 2 is two (RK2, the midpoint rule at first).
    """

    steps: int = 5
    order: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)

    @property
    def per_step(self) -> int:
        """Nodes, and calls, of a step."""
        return self.order

    def initial(self, steps: int | None = None) -> dict[str, Tensor]:
        """The numbers with which t is linear and s is 1: those of the plain solver."""
        count = (steps or self.steps) * self.per_step
        zeros = torch.zeros(count, dtype=torch.float64)
        # Exponents of the times' increments (divided by their sum), of their speeds and of the scales; s' as it is.
        return {name: zeros.clone() for name in ("increments", "speeds", "scales", "growths")}

    def nodes(self, denoiser: Denoiser, steps: int | None = None) -> tuple[list[Node], Tensor, Tensor]:
        """The nodes in order, and time and scale of the end; for other steps than its own those of the plain solver.

        Raises:
            UserError: If the student has no numbers.
        """
        if not isinstance(denoiser, WithNumbers) or "increments" not in denoiser.numbers:
            raise UserError(
                f"BespokeSampler calls a student with times and scales, and {type(denoiser).__name__} has none; train "
                "it by Bespoke, or take JumpSampler."
            )
        count = steps or self.steps
        numbers = {name: whole(value) for name, value in denoiser.numbers.items()}
        if count != self.steps:
            numbers = {name: value.to(numbers[name].device) for name, value in self.initial(count).items()}
        increments, speeds, scales, growths = (numbers[n] for n in ("increments", "speeds", "scales", "growths"))
        high = flow_time(denoiser.process, torch.tensor(denoiser.process.t_max, dtype=torch.float64))
        passed = increments.exp().cumsum(0) / increments.exp().sum()
        times = torch.cat([high[None].to(passed.device), high * (1.0 - passed)])
        scale = torch.cat([torch.zeros_like(scales[:1]), scales]).exp()
        nodes = [(times[i], -high * speeds[i].exp(), scale[i], growths[i]) for i in range(count * self.per_step)]
        return nodes, times[-1], scale[-1]

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        nodes, _, _ = self.nodes(denoiser, steps)
        times = torch.stack([node[0] for node in nodes]).detach()
        return denoiser.process.time_within(times / (1.0 - times)).clamp(max=denoiser.process.t_max).tolist()

    def trained_steps(self) -> int:
        return self.steps

    def evaluations(self, steps: int | None = None) -> int:
        return self.per_step * (steps or self.steps)

    def step(
        self, denoiser: Denoiser, x: Tensor, number: int, condition: Condition, steps: int | None = None
    ) -> Tensor:
        """Step ``number`` from ``x`` (B, ...), which is in the coordinates of rectified flow."""

        def velocity(state: Tensor, t: Tensor) -> Tensor:
            return flow_velocity_of(denoiser, state, t, condition)

        nodes, _, last = self.nodes(denoiser, steps)
        first = number * self.per_step
        end = nodes[first + self.per_step][2] if first + self.per_step < len(nodes) else last
        h, end = 1.0 / (steps or self.steps), end.to(x.dtype)
        if self.order == 1:
            return rk1_step(x, velocity, in_dtype(nodes[first], x), end, h)
        return rk2_step(x, velocity, in_dtype(nodes[first], x), in_dtype(nodes[first + 1], x), end, h)

    def states(
        self, denoiser: Denoiser, noise: Tensor, condition: Condition, steps: int | None = None
    ) -> Iterator[Tensor]:
        """The states of rectified flow after each step."""
        x = self.begin(denoiser, noise)
        for number in range(steps or self.steps):
            x = self.step(denoiser, x, number, condition, steps)
            yield x

    def begin(self, denoiser: Denoiser, noise: Tensor) -> Tensor:
        """Where sampling begins, in the coordinates of rectified flow."""
        process = denoiser.process
        t = noise.new_full((len(noise),), process.t_max, dtype=torch.float64)
        return process.warp(process.start(noise, t), t, FLOW)[0]

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        *_, x = self.states(denoiser, draws.normal("noise", denoiser.sample_shape, dtype), condition, steps)
        return x

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The whole chain."""
        first = draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise
        *_, x = self.states(denoiser, first, condition)
        process = denoiser.process
        t = first.new_full((len(first),), self.schedule(denoiser)[-1], dtype=torch.float64)
        return Rollout(x, condition, t, self.steps - 1, x, torch.full_like(t, process.t_clean))


def in_dtype(node: Node, x: Tensor) -> Node:
    """Numbers as those of ``x``; the time stays in fp64."""
    t, dt, s, ds = node
    return t, dt.to(x.dtype), s.to(x.dtype), ds.to(x.dtype)
