"""EulerianDistiller: moving the source along the flow must not change where the student's jump ends."""

from __future__ import annotations

from abc import ABC
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.flow_maps import Head, eulerian_tangent, head
from fastgen.objectives.tangents import Derivative, ForwardMode


class EulerianDistiller(FlowMapDistiller, ABC):
    """The student's F and the tangent g that corrects it, in the limit of an infinitesimal bootstrap step.

    The derivative is taken first, without gradient, through the bare network and for those samples only that jump; the
    pass that trains is an ordinary one with the same dropout masks. The same guided velocity is the target and the
    direction of the derivative.

    Args:
        derivative: Forward mode or finite differences.
        warmup: Student updates over which the terms that a many-step denoiser lacks come in linearly.
    """

    def __init__(self, derivative: Derivative = ForwardMode(), warmup: int = 0, **kwargs: Any) -> None:
        checks.whole(self, 0, warmup=warmup)
        super().__init__(**kwargs)
        self.derivative = derivative
        self.warmup = warmup

    def warmup_factor(self) -> float:
        """Factor of the terms that come in slowly, from 0 to 1."""
        return min(1.0, self.student_updates / self.warmup) if self.warmup else 1.0

    def field_and_tangent(self, state: MapState) -> tuple[Tensor, Tensor]:
        """F with its graph and g without, both (B, ...), in units of velocity."""
        velocity = self.velocity.at(self.networks, state.x_t, state.times.t, state)
        return self.field_and_tangent_along(state, velocity, velocity)

    def field_and_tangent_along(self, state: MapState, velocity: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the flow with ``velocity``, whose derivative is taken in the direction ``along``; (B, ...)."""
        weights = head(self.coordinates, state.times.t, state.times.s)
        product = self.on_jumping_rows(state, self.product, along, weights.a * weights.b)
        output = self.predict(self.student, state.x_t, state.times.t, state.times.s, state).velocity
        return output, self.tangent(weights, state.x_t, velocity, output.detach(), product)

    def tangent(self, weights: Head, x_t: Tensor, velocity: Tensor, field: Tensor, product: Tensor) -> Tensor:
        """G of :func:`~fastgen.objectives.flow_maps.eulerian_tangent` with what comes in slowly."""
        return eulerian_tangent(weights, x_t, velocity, field, product, self.warmup_factor())

    @torch.no_grad()
    def product(self, state: MapState, velocity: Tensor, scale: Tensor) -> Tensor:
        """``scale dF/dt`` along the velocity, (B, ...), without gradient."""
        t, s = state.times.t, state.times.s

        def field(x: Tensor, t: Tensor) -> Tensor:
            return self.predict(self.student, x, t, s, state).velocity

        low = torch.minimum(t, torch.maximum(s, 1e-3 * t))
        return self.derivative.product(field, state.x_t, t, velocity, scale, low, self.t_max)
