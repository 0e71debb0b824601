"""Directional derivatives of a network: by forward-mode differentiation or by finite differences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.shapes import expand

Field = Callable[[Tensor, Tensor], Tensor]
"""A function of points (B, ...) and times (B,) with values (B, ...)."""


@contextmanager
def same_randomness(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were, so that the next forward draws the same dropout masks.

    A layer whose mask depends on the memory layout may still differ in forward mode; see ``denoisers/dropout.py``.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def plain_kernels(device: torch.device) -> Iterator[None]:
    """Inside, attention runs on the math backend and autocast is off."""
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(device.type, enabled=False):
        yield


def value_and_jvp(
    function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """``function`` at ``primals``, and its Jacobian there times ``tangents``; both carry gradients to parameters.

    Attention runs on the math backend, since the fused kernels have no forward-mode rule, and autocast is off, since it
    would mix the dtypes of values and tangents. Both only here.
    """
    with plain_kernels(primals[0].device):
        value, product = torch.func.jvp(function, primals, tangents)[:2]
    return value, product


def jvp(function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The Jacobian of ``function`` at ``primals`` times ``tangents``."""
    return value_and_jvp(function, primals, tangents)[1]


class Derivative(Component, ABC):
    """How the derivative of a field along a flow is found."""

    @abstractmethod
    def product(
        self, field: Field, x: Tensor, t: Tensor, velocity: Tensor, scale: Tensor, low: Tensor, high: float
    ) -> Tensor:
        """``scale d/dt field(x, t)`` with dx/dt = ``velocity``, without gradient; dropout as in the next forward.

        Args:
            field: The field.
            x: Points, (B, ...).
            t: Times, (B,).
            velocity: dx/dt, (B, ...).
            scale: Factor, (B,).
            low: Lowest time at which the field may be asked, (B,), at most ``t``.
            high: Highest time at which the field may be asked.
        """


@dataclass(frozen=True)
class ForwardMode(Derivative):
    """Exact, by one pass that carries value and tangent."""

    @torch.no_grad()
    def product(
        self, field: Field, x: Tensor, t: Tensor, velocity: Tensor, scale: Tensor, low: Tensor, high: float
    ) -> Tensor:
        with same_randomness(x.device):
            return jvp(field, (x, t), (expand(scale, x) * velocity.to(x.dtype), scale.to(t.dtype)))


@dataclass(frozen=True)
class SemiContinuous(Derivative):
    """Exact along ``x``, by forward mode, and a difference in ``t``: ``(F(x, t) - F(x, t - h)) / h``.

    For transformers whose derivative in time is the unstable part: sCM on SD3.5 collapsed with the exact one, and not
    with this and an embedding of the time in fp32 (rCM, Zheng et al. 2025, arXiv 2510.08431, ``fd_type`` 1; its
    ``(cos h F - F(t - h)) / sin h`` is the same to h^2). Autocast is off, or the difference would be rounding.

    Args:
        step: h in the time of the coordinates.
    """

    step: float = 1e-4

    def __post_init__(self) -> None:
        checks.positive(self, step=self.step)

    @torch.no_grad()
    def product(
        self, field: Field, x: Tensor, t: Tensor, velocity: Tensor, scale: Tensor, low: Tensor, high: float
    ) -> Tensor:
        with same_randomness(x.device):
            value, along = value_and_jvp(lambda x: field(x, t), (x,), (expand(scale, x) * velocity.to(x.dtype),))
        back = (t - low).clamp(0.0, self.step)
        with same_randomness(x.device), plain_kernels(x.device):
            earlier = field(x, t - back)
        return along + expand(scale / back.clamp(min=1e-12), x) * (value - earlier)


@dataclass(frozen=True)
class FiniteDifference(Derivative):
    """Two plain passes along the same direction; works with every kernel, sharding and checkpointing.

    Central, and one-sided where the time would fall below ``low`` or rise above ``high``.

    Args:
        step: Step in the time of the coordinates (0.005 on [0, 1] in AnyFlow and FastGen).
    """

    step: float = 5e-3

    def __post_init__(self) -> None:
        checks.positive(self, step=self.step)

    @torch.no_grad()
    def product(
        self, field: Field, x: Tensor, t: Tensor, velocity: Tensor, scale: Tensor, low: Tensor, high: float
    ) -> Tensor:
        above = (high - t).clamp(0.0, self.step)
        below = (t - low).clamp(0.0, self.step)
        values = []
        for shift in (above, -below):
            with same_randomness(x.device):
                values.append(field(x + expand(shift, x) * velocity, t + shift))
        return expand(scale / (above + below).clamp(min=1e-12), x) * (values[0] - values[1])
