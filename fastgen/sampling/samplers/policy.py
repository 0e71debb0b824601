"""PolicySampler: one call per segment, whose policy is followed without the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.policies import Policy, shifted, unshifted
from fastgen.denoisers.wrappers.policy import FLOW, PolicyDenoiser, flow_time
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import Sampler
from fastgen.sampling.samplers.jump import JumpSampler


@dataclass(frozen=True)
class PolicySampler(Sampler):
    """A policy student's sampler (Chen et al. 2025, pi-Flow, arXiv 2510.14974).

    Segments begin at ``times``, or are even in the time of rectified flow before the policy's shift.

    Args:
        times: Times at which segments begin, as in :class:`~fastgen.sampling.samplers.chain.ChainSampler`.
        level: Noise level sigma / alpha at which the first of a ``grid`` of segments begins, or ``max``.
        steps: Number of segments of the grid.
        last_segment: Length of the grid's last segment, in units of the others'; 1/2 on FLUX.1 and Qwen-Image.
        substeps: Substeps of a policy from pure noise to data; policies with a known integral need none.
        temperature: Of the policies' components when samples are made, in all segments but the last; 0.3 for the
            paper's GMFlow on FLUX.1. Training knows no temperature.
    """

    times: Sequence[float] | Literal["grid"] = "grid"
    level: float | Literal["max"] = "max"
    steps: int = 1
    last_segment: float = 1.0
    substeps: int = 128
    temperature: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, temperature=self.temperature)
        checks.positive(self, last_segment=self.last_segment)
        checks.whole(self, substeps=self.substeps)
        _ = self.plain
        if self.last_segment != 1.0 and (self.times, self.level) != ("grid", "max"):
            raise UserError("PolicySampler takes last_segment for its own grid, not beside times or a level.")

    @property
    def plain(self) -> JumpSampler:
        """Whoever calls at the same times and has no policy."""
        return JumpSampler(self.times, self.level, self.steps)

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        return self.edges(denoiser, steps)[:-1]

    def trained_steps(self) -> int:
        return self.plain.trained_steps()

    def edges(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        """The ends of the segments in the process's time, from noise to data."""
        process, shift = denoiser.process, policies_of(denoiser).family.shift
        if (self.times, self.level) != ("grid", "max") or (shift, self.last_segment) == (1.0, 1.0):
            return [*self.plain.schedule(denoiser, steps), process.t_clean]
        count = steps or self.steps
        even = 1.0 - torch.arange(count, dtype=torch.float64) / (count - 1 + self.last_segment)
        flow = shifted(even, shift)
        return [*process.time(flow / (1.0 - flow)).clamp(max=process.t_max).tolist(), process.t_clean]

    def substeps_of(self, length: float) -> int:
        """Substeps for a stretch of unshifted time; a function of settings alone: no sample depends on its batch."""
        return max(1, math.ceil(self.substeps * length - 1e-9))

    def follow(self, policy: Policy, end: Tensor) -> Tensor:
        """Where a policy leads from its source to the time ``end`` (B,) of rectified flow, in its coordinates."""
        start = policy.t_source
        length = float((unshifted(start, policy.shift) - unshifted(end, policy.shift))[0])  # the same for all samples
        return policy.follow(policy.x_source, start, end, self.substeps_of(length))[0]

    def segment(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition
    ) -> tuple[Policy, Tensor]:
        """The policy of a call at ``x_t`` (B, ...), ``t`` (B,), and where it leads to at ``s`` (B,), both in flow."""
        end = flow_time(denoiser.process, s)
        policy = policies_of(denoiser).policy(x_t, t, condition, end)
        return policy, self.follow(policy, end)

    def chain(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        condition: Condition,
        edges: Sequence[float],
        temperature: float = 1.0,
    ) -> Tensor:
        """From noise (B, ...) along the segments between ``edges``; in the process's own scale.

        Segments that do not end at data have the ``temperature``.

        Raises:
            UserError: If there is one, and policies have no components.
        """
        if temperature != 1.0 and not policies_of(denoiser).family.mixes:
            family = type(policies_of(denoiser).family).__name__
            raise UserError(f"{family} mixes no components that could have a temperature; set it to 1.")
        process = denoiser.process
        x_t = process.start(noise, noise.new_full((len(noise),), edges[0], dtype=torch.float64))
        for start, end in pairwise(edges):
            t, s = (noise.new_full((len(noise),), time, dtype=torch.float64) for time in (start, end))
            policy, x = self.segment(denoiser, x_t, t, s, condition)
            if temperature != 1.0 and end != process.t_clean:
                x = self.follow(policy.tempered(temperature), flow_time(process, s))
            x_t, _ = FLOW.warp(x, flow_time(process, s), process)
        return x_t

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        noise = draws.normal("noise", denoiser.sample_shape, dtype)
        return self.chain(denoiser, noise, condition, self.edges(denoiser, steps), self.temperature)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """Earlier segments without gradient; the policy of a random one, shared by all ranks, with it, to its end.

        There the policy says x0: the sample itself at the end of the last segment.
        """
        process, edges = denoiser.process, self.edges(denoiser)
        step = draws.shared_integer("step", len(edges) - 1) if len(edges) > 2 else 0
        first = draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise
        with torch.no_grad():
            x_t = self.chain(denoiser, first, condition, edges[: step + 1])
        t, s = (first.new_full((len(first),), time, dtype=torch.float64) for time in edges[step : step + 2])
        policy, x = self.segment(denoiser, x_t, t, s, condition)
        end = flow_time(process, s)
        anchor, _ = FLOW.warp(x, end, process)
        x0 = anchor if step == len(edges) - 2 else policy.x0(x, end)
        return Rollout(x0, condition, t, step, anchor.detach(), s)


def policies_of(denoiser: Denoiser) -> PolicyDenoiser:
    """The denoiser, which must answer with policies.

    Raises:
        UserError: If it does not.
    """
    if not isinstance(denoiser, PolicyDenoiser):
        raise UserError(
            f"PolicySampler follows policies, and {type(denoiser).__name__} predicts none; train it by PiFlow, or take "
            "JumpSampler."
        )
    return denoiser
