"""Velocity oracles: what moves the state of a flow map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen import checks
from fastgen.shapes import expand

if TYPE_CHECKING:
    from fastgen.methods.flow_map import FlowMapDistiller, MapState


class Velocity(ABC):
    """d x_t / dt in the coordinates of the method.

    A method uses one field as its target, as the direction of its derivatives and as its transition.
    """

    needs_teacher = False

    @abstractmethod
    def at(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        """The velocity (B, ...) at ``state.x_t``, without gradient."""


class DataVelocity(Velocity):
    """The conditional velocity of the path through a datum and its noise; its mean is that of the flow."""

    def at(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        alpha_dot, sigma_dot = (expand(c, state.x_t) for c in method.coordinates.derivatives(state.times.t))
        return alpha_dot * state.x0 + sigma_dot * state.noise


class TeacherVelocity(Velocity):
    """The teacher's velocity, guided as the method says."""

    needs_teacher = True

    @torch.no_grad()
    def at(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        return method.guided_teacher(state)(state.x_t, state.times.t, state.condition).velocity


class MixedVelocity(Velocity):
    """``omega v + kappa u(c) + (1 - omega - kappa) u(null)`` with the student's own u at s = t.

    Guidance inside the training of MeanFlow (Geng et al. 2025, arXiv 2505.13447, appendix; ImageNet 256: omega 0.2,
    kappa 0.92 up to t = 0.75); the effective scale is omega / (1 - kappa). Samples without a condition get plain v.

    Args:
        omega: Share of the oracle ``base``.
        kappa: Share of the student with the condition.
        low: Lowest time at which it acts.
        high: Highest time at which it acts.
        base: The oracle of v; default the data's.
    """

    def __init__(
        self, omega: float = 1.0, kappa: float = 0.0, low: float = 0.0, high: float = 1.0, base: Velocity | None = None
    ) -> None:
        checks.positive(self, omega=omega)
        checks.not_negative(self, low=low, high=high)
        checks.between(self, 0.0, 1.0, "[)", kappa=kappa)
        checks.ascending(self, low=low, high=high)
        self.omega, self.kappa, self.low, self.high = omega, kappa, low, high
        self.base = base or DataVelocity()
        self.needs_teacher = self.base.needs_teacher

    @torch.no_grad()
    def at(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        velocity, t = self.base.at(method, state), state.times.t
        if (self.omega, self.kappa) == (1.0, 0.0):
            return velocity
        mixed = self.omega * velocity
        null = 1.0 - self.omega - self.kappa
        if self.kappa:
            mixed = mixed + self.kappa * method.diagonal(state, state.condition)
        if null:
            mixed = mixed + null * method.diagonal(state, method.student.null_condition(state.condition))
        active = (t >= self.low) & (t <= self.high) & ~state.dropped
        return torch.where(active.reshape(-1, *[1] * (velocity.ndim - 1)), mixed, velocity)
