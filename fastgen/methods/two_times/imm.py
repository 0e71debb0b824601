"""Inductive moment matching."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.flow_maps import jump_weights
from fastgen.objectives.maps.moments import imm_weight, laplace_discrepancy
from fastgen.objectives.tangents import same_randomness
from fastgen.optimizers import BetasRAdam
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import EtaTimes, JumpLaw


class IMM(FlowMapDistiller):
    """Inductive moment matching (Zhou et al. 2025, arXiv 2503.07565; github.com/lumalabs/imm, which has no training).

    ``group`` samples share t, s and r; their jumps from t and from r (the same noise) to s are compared as sets, by the
    maximum mean discrepancy of a Laplace kernel whose width grows with the length of the jump. A group of one is a
    consistency model. No teacher.

    By an independent implementation, with the official preconditioning: the width is that of the map's own weight B(t,
    s), ``(t - s)`` on rectified flow. Where data have the deviation 1 the official scales of 0.5 are the same. The
    optimizer is not verified.

    Args:
        times: Law of t, r and s.
        coordinates: ``RectifiedFlow``, or ``TrigFlow`` for the paper's cosine schedule.
        sampler: Several ``times`` are jumps from each to the next, the paper's pushforward; ``RenoiseSampler`` is its
            restart sampling.
        group: Samples that are compared; batches and their pieces must be multiples of it.
        b: Shift of the weight's sigmoid.
        power: The weight's power of alpha; 2 with several calls or in fp16.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = EtaTimes(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        group: int = 4,
        b: float = 5.0,
        power: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, group=group)
        checks.finite(self, b=b)
        checks.not_negative(self, power=power)
        super().__init__(
            times=times, coordinates=coordinates, sampler=sampler, student_optimizer=student_optimizer, **kwargs
        )
        self.group = group
        self.b = b
        self.power = power

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t, r, s = state.times.t, state.times.r, state.times.s
        x_r = self.coordinates.add_noise(state.datum(self), state.noise, r)
        with torch.no_grad(), same_randomness(x_r.device):
            other = self.coordinates.jump(self.predict(self.target_network(), x_r, r, s, state), s)
        one = self.coordinates.jump(self.predict(self.student, state.x_t, t, s, state), s)
        one, other = (y.flatten(1).unflatten(0, (-1, self.group)) for y in (one, other))
        t, s = t[:: self.group], s[:: self.group]
        found = laplace_discrepancy(one, other, 1.0 / jump_weights(self.coordinates, t, s)[1].abs().clamp(min=1e-8))
        return {"discrepancy": (imm_weight(self.coordinates, t, self.b, self.power) * found).mean()}
