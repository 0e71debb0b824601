"""Flow maps by self-distillation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgen.denoisers.networks.log_weight import LogWeight
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.flow_maps import head, lagrangian_target, two_leg_target, uncertainty_weighted
from fastgen.objectives.tangents import same_randomness, value_and_jvp
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import FlowTime, JumpLaw, SortedTimes


class SelfDistillation(FlowMapDistiller, ABC):
    """How to build a consistency model: flow maps by self-distillation (Boffi et al. 2025, arXiv 2505.18825).

    One network learns the flow, at s = t, and the map that this flow makes, by one of the identities of a flow map.
    The residual of an identity is that of flow matching where s = t, so one loss serves both:
    ``exp(w(t, s)) |residual|^2 - w(t, s)``, summed over the elements of a sample. With ``velocity: TeacherVelocity``
    the flow is the teacher's. The paper's Eulerian variant is ``ESD``; MeanFlow is its relative with the velocity of
    the data.

    Differs from the code: samples are assigned to the diagonal independently instead of by their place in the batch,
    and dropout, if the network has any, acts everywhere.

    Args:
        times: Law of the jumps; the paper's: uniform, three quarters of them with s = t, else r in the middle.
        coordinates: As of any flow map.
        sampler: Several ``times`` are jumps from each to the next.
        learned_weight: Whether the weight w is learned, else it is 0.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = SortedTimes(FlowTime(1e-2, 1.0)),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        learned_weight: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times,
            coordinates=coordinates,
            sampler=sampler,
            **kwargs,
        )
        self.learned_weight = learned_weight

    def build_roles(self) -> None:
        super().build_roles()
        if self.learned_weight:
            self.log_weight = LogWeight(times=2)

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.student, *([self.log_weight] if self.learned_weight else [])]}

    @abstractmethod
    def residual(self, state: MapState) -> Tensor:
        """What vanishes for the map of the flow, (B, ...), in units of velocity."""

    def unless_still(self, state: MapState, target: Tensor) -> Tensor:
        """``target``, or the velocity to be learned where the jump goes nowhere."""
        moves = (state.times.s < state.times.t).reshape(-1, *[1] * (target.ndim - 1))
        return torch.where(moves, target, self.velocity.at(self.networks, state.x_t, state.times.t, state))

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        error = self.residual(state).square().flatten(1).sum(1)
        if not self.learned_weight:
            return {"flow_map": error.mean()}
        log_weight = self.log_weight(self.coordinates, state.times.t, state.times.s)
        return {"flow_map": uncertainty_weighted(error, log_weight).mean()}


class LSD(SelfDistillation):
    """Lagrangian self-distillation: the destination moves with the velocity there, ``df/ds = sg[F(f, s, s)]``.

    On the flow ``df/ds = F - (t - s) dF/ds``. The gradient runs through the derivative, which is taken in s alone and
    so needs no tangent of the points. The most stable of the paper's three.
    """

    def residual(self, state: MapState) -> Tensor:
        x, t, s = state.x_t, state.times.t, state.times.s

        def field(s: Tensor) -> Tensor:
            return self.predict(self.student, x, t, s, state).velocity

        weights = head(self.coordinates, t, s, moving="s")
        with same_randomness(x.device):
            there = self.on_jumping_rows(state, self.velocity_after)
        output, slope = value_and_jvp(field, (s,), (torch.ones_like(s),))
        return output - lagrangian_target(weights, x, self.unless_still(state, there), slope)

    @torch.no_grad()
    def velocity_after(self, state: MapState) -> Tensor:
        """The student's own velocity where its jump ends."""
        t, s, network = state.times.t, state.times.s, self.target_network()
        with same_randomness(state.x_t.device):
            x_s = self.coordinates.jump(self.predict(self.student, state.x_t, t, s, state), s)
        return self.predict(network, x_s, s, s, state).velocity


class PSD(SelfDistillation):
    """Progressive self-distillation: one jump lands where two land, by way of r.

    ``SortedTimes(middle: 0.5)`` is the paper's midpoint variant, ``middle: null`` its uniform one. With
    ``DyadicTimes`` and no learned weight it is Shortcut but for the shortest jumps, whose halves are the flow there.
    """

    def residual(self, state: MapState) -> Tensor:
        target = self.unless_still(state, self.on_jumping_rows(state, self.two_jumps))
        return self.predict(self.student, state.x_t, state.times.t, state.times.s, state).velocity - target

    @torch.no_grad()
    def two_jumps(self, state: MapState) -> Tensor:
        """The velocity of the jump from t to s by way of r."""
        network, x, (t, r, s) = self.target_network(), state.x_t, (state.times.t, state.times.r, state.times.s)
        with same_randomness(x.device):
            first = self.predict(network, x, t, r, state)
        with same_randomness(x.device):
            second = self.predict(network, self.coordinates.jump(first, r), r, s, state).velocity
        return two_leg_target(self.coordinates, t, r, s, x, first.velocity, second)
