"""Velocity oracles: what moves the state of a flow map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.shapes import expand


class Velocity(Component, ABC):
    """d x_t / dt in the coordinates of the method.

    A method uses one field as its target, as the direction of its derivatives and as its transition.
    """

    @property
    def needs_teacher(self) -> bool:
        """Whether it asks a teacher."""
        return False

    @abstractmethod
    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        """The velocity (B, ...) at ``x_t`` (B, ...) and ``t`` (B,), without gradient.

        Args:
            networks: Whom it may ask.
            x_t: The point, which may be another than the state's.
            t: Its time.
            state: What is known of the samples: datum, noise, condition, guidance scale.

        Raises:
            UserError: If it needs what is not known.
        """


@dataclass(frozen=True)
class DataVelocity(Velocity):
    """The conditional velocity of the path through a datum and its noise; its mean is that of the flow."""

    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        alpha_dot, sigma_dot = (expand(c, x_t) for c in networks.coordinates.derivatives(t))
        return alpha_dot * state.datum(self) + sigma_dot * state.noise


@dataclass(frozen=True)
class TeacherVelocity(Velocity):
    """The teacher's velocity, guided as the method says."""

    @property
    def needs_teacher(self) -> bool:
        return True

    @torch.no_grad()
    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        return networks.guided_teacher(state)(x_t, t, state.condition).velocity


@dataclass(frozen=True)
class MixedVelocity(Velocity):
    """``omega v + kappa u(c) + (1 - omega - kappa) u(null)`` with the student's own u at s = t.

    Guidance inside the training of MeanFlow (Geng et al. 2025, arXiv 2505.13447, appendix; ImageNet 256: omega 0.2,
    kappa 0.92 up to t = 0.75); the effective scale is omega / (1 - kappa). Samples without a condition get plain v.

    Args:
        omega: Share of the oracle ``base``.
        kappa: Share of the student with the condition.
        low: Lowest time at which it acts.
        high: Highest time at which it acts.
        base: The oracle of v.
    """

    omega: float = 1.0
    kappa: float = 0.0
    low: float = 0.0
    high: float = 1.0
    base: Velocity = DataVelocity()

    def __post_init__(self) -> None:
        checks.positive(self, omega=self.omega)
        checks.not_negative(self, low=self.low, high=self.high)
        checks.between(self, 0.0, 1.0, "[)", kappa=self.kappa)
        checks.ascending(self, low=self.low, high=self.high)

    @property
    def needs_teacher(self) -> bool:
        return self.base.needs_teacher

    @torch.no_grad()
    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        velocity = self.base.at(networks, x_t, t, state)
        if (self.omega, self.kappa) == (1.0, 0.0):
            return velocity
        mixed = self.omega * velocity
        null = 1.0 - self.omega - self.kappa
        if self.kappa:
            mixed = mixed + self.kappa * networks.diagonal(x_t, t, state)
        if null:
            without = networks.student.null_condition(state.condition)
            mixed = mixed + null * networks.diagonal(x_t, t, state, without)
        active = (t >= self.low) & (t <= self.high) & ~state.dropped
        return torch.where(active.reshape(-1, *[1] * (velocity.ndim - 1)), mixed, velocity)
