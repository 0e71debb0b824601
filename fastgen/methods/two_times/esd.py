"""Eulerian self-distillation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fastgen.methods.flow_maps.self_distillation import SelfDistillation
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.flow_maps import head
from fastgen.objectives.maps.two_times import eulerian_residual
from fastgen.objectives.tangents import jvp, same_randomness, value_and_jvp


class ESD(SelfDistillation):
    """Eulerian self-distillation: the source moves with the student's own velocity, ``d/dt f(x_t, t, s) = 0``.

    Beside ``LSD`` and ``PSD`` (Boffi et al. 2025, arXiv 2505.18825; github.com/nmboffi/flow-maps). On the flow
    ``df/dt = F(x, t, t) - F(x, t, s) - (t - s) (dF/dt + grad F . F(x, t, t))``. The paper finds it the least stable of
    its three, because of the derivative in x. MeanFlow is its relative with the data's velocity, AYF with a teacher's.

    Args:
        stopped: What is a constant. ``spatial``: the velocity and the whole term ``grad f . v``, so that the gradient
            runs through the derivative in t alone (the code's "full"); ``velocity``: the velocity; ``nothing``.
    """

    def __init__(self, stopped: Literal["spatial", "velocity", "nothing"] = "spatial", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stopped = stopped

    def residual(self, state: MapState) -> Tensor:
        x, t, s = state.x_t, state.times.t, state.times.s

        def field(x: Tensor, t: Tensor) -> Tensor:
            return self.predict(self.student, x, t, s, state).velocity

        with same_randomness(x.device), torch.set_grad_enabled(torch.is_grad_enabled() and self.stopped == "nothing"):
            velocity = self.unless_still(state, self.on_jumping_rows(state, self.own_velocity)).to(x.dtype)
        if self.stopped == "spatial":
            with same_randomness(x.device):
                along = self.on_jumping_rows(state, self.spatial_slope, velocity)
            output, slope = value_and_jvp(lambda t: field(x, t), (t,), (torch.ones_like(t),))
            slope = slope + along
        else:
            output, slope = value_and_jvp(field, (x, t), (velocity, torch.ones_like(t)))
        return eulerian_residual(head(self.coordinates, t, s), x, velocity, output, slope)

    def own_velocity(self, state: MapState) -> Tensor:
        """The velocity (B, ...) of the jump that goes nowhere."""
        network = self.student if self.stopped == "nothing" else self.target_network()
        return self.predict(network, state.x_t, state.times.t, state.times.t, state).velocity

    @torch.no_grad()
    def spatial_slope(self, state: MapState, velocity: Tensor) -> Tensor:
        """``grad F . velocity``, (B, ...)."""
        t, s = state.times.t, state.times.s
        return jvp(lambda x: self.predict(self.student, x, t, s, state).velocity, (state.x_t,), (velocity,))
