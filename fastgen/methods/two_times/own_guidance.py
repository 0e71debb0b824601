"""OwnGuidance: a student that is its own guide, at a scale that it is told."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.velocity import DataVelocity, Velocity


@dataclass(frozen=True)
class OwnGuidance(Velocity):
    """``v + (1 - 1/w) (u(c) - u(null))`` with the student's own u at s = t and the state's guidance scale w.

    iMF (Geng et al. 2025, arXiv 2512.02012). Where u(c) has learned it, it is ``w v + (1 - w) u(null)``: guidance with
    the scale w. Samples without a condition, and those at other times, get plain v.

    Args:
        low: Lowest time at which it acts.
        high: Highest time at which it acts.
        base: The oracle of v.
    """

    low: float = 0.0
    high: float = 1.0
    base: Velocity = DataVelocity()

    def __post_init__(self) -> None:
        checks.not_negative(self, low=self.low, high=self.high)
        checks.ascending(self, low=self.low, high=self.high)

    @property
    def needs_teacher(self) -> bool:
        return self.base.needs_teacher

    @torch.no_grad()
    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        velocity = self.base.at(networks, x_t, t, state)
        if not networks.guided or not state.condition:
            return velocity
        without = networks.student.null_condition(state.condition)
        gap = networks.diagonal(x_t, t, state) - networks.diagonal(x_t, t, state, without)
        active = (t >= self.low) & (t <= self.high) & ~state.dropped
        share = torch.where(active, 1.0 - 1.0 / state.guidance, 0.0)
        return velocity + share.to(gap.dtype).reshape(-1, *[1] * (gap.ndim - 1)) * gap
