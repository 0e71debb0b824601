"""Policies: velocity fields that one network call lays down for a whole segment of the flow.

Everything here is in the coordinates of rectified flow, ``x_t = (1 - t) x0 + t noise``, at least in fp32 (Chen et al.
2025, pi-Flow, arXiv 2510.14974). Networks on other processes are asked through ``Process.warp``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.randomness import generator
from fastgen.shapes import expand

SMALLEST = 1e-6
"""Times are kept above this where they divide."""
SMALL_GROWTH = 1e-5
"""Exponents below this are replaced by their series."""


def unshifted(t: Tensor, shift: float) -> Tensor:
    """The time r with ``t = shift r / (1 + (shift - 1) r)`` (Esser et al. 2024, arXiv 2403.03206)."""
    return t / (shift - (shift - 1.0) * t)


def shifted(r: Tensor, shift: float) -> Tensor:
    """``shift r / (1 + (shift - 1) r)``."""
    return shift * r / (1.0 + (shift - 1.0) * r)


@dataclass(frozen=True)
class Policy(ABC):
    """An estimate of x0 at every state and time of a segment, and the flow that follows it.

    Attributes:
        x_source: Where the network was called, (B, ...).
        t_source: When, (B,).
        shift: Steps are even in the unshifted time, see :func:`unshifted`.
    """

    x_source: Tensor
    t_source: Tensor
    shift: float = field(default=1.0, kw_only=True)

    @abstractmethod
    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean estimate at ``x_t`` (B, ...), ``t`` (B,)."""

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``(x_t - x0) / t``."""
        return (x_t - self.x0(x_t, t)) / expand(t.clamp(min=SMALLEST), x_t)

    def follow(self, x_t: Tensor, t: Tensor, s: Tensor, substeps: int) -> tuple[Tensor, Tensor]:
        """Euler from ``t`` to ``s``, in substeps that are equal unshifted: where it leads, and the mean velocity."""
        start, end = unshifted(t, self.shift), unshifted(s, self.shift)
        step, still = (start - end) / substeps, t <= s
        total, now = torch.zeros_like(x_t), t
        for i in range(substeps):
            following = shifted(start - (i + 1) * step, self.shift)
            share = torch.where(still, 1.0 / substeps, (now - following) / torch.where(still, 1.0, t - s))
            velocity = self.velocity(x_t, now)
            x_t = x_t - expand(now - following, x_t) * velocity
            total, now = total + expand(share, x_t) * velocity, following
        return x_t, total

    @property
    def components(self) -> int:
        """How many parts it is mixed of, which can be left out or weighed anew; 0 if of none."""
        return 0

    def without(self, dropped: Tensor) -> Policy:
        """The policy without the components of ``dropped`` (B, K)."""
        raise NotImplementedError

    def tempered(self, temperature: float) -> Policy:
        """The policy at another temperature: below 1 the likeliest component counts more."""
        raise NotImplementedError

    def detach(self) -> Policy:
        """The same policy without its graph."""
        tensors: dict[str, Any] = {name: v.detach() for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class MixturePolicy(Policy):
    """x0 at the source is believed to be a mixture of Gaussians; later states update the belief by Bayes' rule.

    Attributes:
        means: Means of the components, (B, K, C, ...).
        variance: Their common variance, (B, 1, 1, ...).
        logits: Log weights up to a constant, (B, K, 1, ...).
    """

    means: Tensor
    variance: Tensor
    logits: Tensor

    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        def terms(x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            sigma = expand(time.clamp(min=SMALLEST), x)
            alpha = 1.0 - sigma
            return alpha.square() / sigma.square(), alpha * x / sigma.square()

        (now, pull), (then, pull_then) = terms(x_t, t), terms(self.x_source, self.t_source)
        precision, pull = (now - then).unsqueeze(1), (pull - pull_then).unsqueeze(1)
        spread = self.variance * precision + 1.0
        evidence = (self.means * (pull - 0.5 * precision * self.means) / spread).sum(2, keepdim=True)
        weights = (self.logits + evidence).softmax(1)
        return (weights * (self.variance * pull + self.means) / spread).sum(1)

    @property
    def components(self) -> int:
        return self.logits.shape[1]

    def without(self, dropped: Tensor) -> MixturePolicy:
        return replace(self, logits=masked(self.logits, dropped))

    def tempered(self, temperature: float) -> MixturePolicy:
        """Logits divided by the temperature, the variance multiplied (piFlow's ``gm_temperature``)."""
        logits = (self.logits / temperature).log_softmax(1)
        return replace(self, logits=logits, variance=self.variance * temperature)


def masked(logits: Tensor, dropped: Tensor) -> Tensor:
    """Logits (B, K, ...) without what is dropped (B, K); where that is everything, nothing is."""
    dropped = dropped & ~dropped.all(1, keepdim=True)
    return logits.masked_fill(dropped.reshape(*dropped.shape, *[1] * (logits.ndim - 2)), float("-inf"))


@dataclass(frozen=True)
class MomentumPolicy(Policy):
    """A mixture of velocities that grow or fade exponentially from the source on; it does not look at the state.

    ``v(t) = sum_k w_k v_k e^(g_k (t_source - t))``, whose integral is known, so following it takes no substeps.

    Attributes:
        velocities: v_k at the source, (B, K, C, ...).
        rates: g_k, (B, K, C, ...).
        logits: Log weights up to a constant, (B, K, 1, ...).
    """

    velocities: Tensor
    rates: Tensor
    logits: Tensor

    def at(self, t: Tensor) -> Tensor:
        """The weighted velocities of the components at ``t`` (B,), (B, K, C, ...)."""
        passed = expand(self.t_source - t, self.velocities)
        return self.logits.softmax(1) * self.velocities * (self.rates * passed).exp()

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.at(t).sum(1)

    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t - expand(t, x_t) * self.velocity(x_t, t)

    def follow(self, x_t: Tensor, t: Tensor, s: Tensor, substeps: int) -> tuple[Tensor, Tensor]:
        """The exact integral, whatever the number of substeps, and its mean; the velocity at ``t`` where that is s."""
        step = (t - s).clamp(min=0.0)
        growth = self.rates * expand(step, self.rates)
        small = growth.abs() < SMALL_GROWTH
        safe = torch.where(small, torch.ones_like(growth), growth)
        mean = (self.at(t) * torch.where(small, 1.0 + 0.5 * growth, torch.expm1(safe) / safe)).sum(1)
        return x_t - expand(step, x_t) * mean, mean

    @property
    def components(self) -> int:
        return self.logits.shape[1]

    def without(self, dropped: Tensor) -> MomentumPolicy:
        return replace(self, logits=masked(self.logits, dropped))

    def tempered(self, temperature: float) -> MomentumPolicy:
        return replace(self, logits=(self.logits / temperature).log_softmax(1))


@dataclass(frozen=True)
class GridPolicy(Policy):
    """x0 at times from the source to the end of the segment, equally spaced unshifted, and linear between them.

    Attributes:
        t_end: End of the segment, (B,).
        points: x0 at the times, (B, N, C, ...).
    """

    t_end: Tensor
    points: Tensor

    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        count = self.points.shape[1]
        source, end, now = (unshifted(time, self.shift) for time in (self.t_source, self.t_end, t))
        passed = (source - now) / (source - end).clamp(min=SMALLEST)
        position = passed.clamp(0.0, 1.0)[:, None] * (count - 1)
        weights = (1.0 - (position - torch.arange(count, device=t.device)).abs()).clamp(min=0.0)
        return (weights.to(x_t.dtype).reshape(*weights.shape, *[1] * (x_t.ndim - 1)) * self.points).sum(1)


@dataclass(frozen=True)
class PolicyFamily(Component, ABC):
    """How the outputs of a network become a policy.

    Args:
        shift: Segments, substeps, windows and grids are even in the time before this shift; 3.2 in the paper's FLUX.1
            and Qwen-Image.
    """

    shift: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        checks.positive(self, shift=self.shift)

    @property
    def mixes(self) -> bool:
        """Whether its policies are mixed of components."""
        return hasattr(self, "components")

    @abstractmethod
    def outputs(self, channels: int) -> int:
        """Channels that the network must give beside its own ``channels``."""

    @abstractmethod
    def initial(self, channels: int) -> Tensor:
        """Their values at the start, (outputs,), whatever the input."""

    @abstractmethod
    def policy(self, x: Tensor, t: Tensor, t_end: Tensor, velocity: Tensor, extra: Tensor) -> Policy:
        """The policy of a call at ``x`` (B, C, ...), ``t`` (B,) for the segment that ends at ``t_end`` (B,).

        Args:
            x: Source.
            t: Time of the source.
            t_end: End of the segment.
            velocity: The network's own prediction there, (B, C, ...).
            extra: Its further outputs, (B, outputs, ...).
        """


@dataclass(frozen=True)
class GMFlow(PolicyFamily):
    """Mixture policies. The network's velocity and one offset per component give the means.

    One weight per component and one spread for every place (pixel, or whole point). The official head has one spread
    for a whole sample.

    Args:
        components: Number of components.
        std: Standard deviation of a component at the start, in units of velocity.
        offset: Standard deviation of the offsets at the start, which tell components apart.
        shift: As in :class:`PolicyFamily`.
    """

    components: int = 8
    std: float = 0.05
    offset: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, components=self.components)
        checks.positive(self, std=self.std)
        checks.not_negative(self, offset=self.offset)

    def outputs(self, channels: int) -> int:
        return self.components * (channels + 1) + 1

    def initial(self, channels: int) -> Tensor:
        values = torch.zeros(self.outputs(channels))
        count = self.components * channels
        values[:count] = self.offset * torch.randn(count, generator=generator("policy"))
        values[-1] = math.log(self.std)
        return values

    def policy(self, x: Tensor, t: Tensor, t_end: Tensor, velocity: Tensor, extra: Tensor) -> Policy:
        offsets, logits, log_std = extra.split([self.components * x.shape[1], self.components, 1], dim=1)
        velocities = velocity.unsqueeze(1) + offsets.unflatten(1, (self.components, x.shape[1]))
        sigma = expand(t, velocities)
        variance = (sigma * log_std.unsqueeze(1).exp()).square()
        means = x.unsqueeze(1) - sigma * velocities
        return MixturePolicy(x, t, means, variance, logits.unsqueeze(2), shift=self.shift)


@dataclass(frozen=True)
class DX(PolicyFamily):
    """Grid policies. With one point the velocity is constant and a call is one Euler (DDIM) step.

    Args:
        points: Number of x0 predictions over a segment.
        shift: As in :class:`PolicyFamily`.
    """

    points: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, points=self.points)

    def outputs(self, channels: int) -> int:
        return self.points * channels

    def initial(self, channels: int) -> Tensor:
        return torch.zeros(self.outputs(channels))

    def policy(self, x: Tensor, t: Tensor, t_end: Tensor, velocity: Tensor, extra: Tensor) -> Policy:
        velocities = velocity.unsqueeze(1) + extra.unflatten(1, (self.points, x.shape[1]))
        return GridPolicy(x, t, t_end, x.unsqueeze(1) - expand(t, velocities) * velocities, shift=self.shift)


@dataclass(frozen=True)
class Momentum(PolicyFamily):
    """Momentum policies (ArcFlow, arXiv 2602.09014). Every component has its velocity beside the network's own.

    One weight per component and place, one rate per component, place and channel; the first component's rate is 0.

    Args:
        components: Number of components.
        offset: Standard deviation of the offsets of the velocities at the start, which tell components apart.
        shift: As in :class:`PolicyFamily`.
    """

    components: int = 16
    offset: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, components=self.components)
        checks.not_negative(self, offset=self.offset)

    def outputs(self, channels: int) -> int:
        return self.components * channels + (self.components - 1) * channels + self.components

    def initial(self, channels: int) -> Tensor:
        values = torch.zeros(self.outputs(channels))
        count = self.components * channels
        values[:count] = self.offset * torch.randn(count, generator=generator("policy"))
        return values

    def policy(self, x: Tensor, t: Tensor, t_end: Tensor, velocity: Tensor, extra: Tensor) -> Policy:
        count, channels = self.components, x.shape[1]
        offsets, rates, logits = extra.split([count * channels, (count - 1) * channels, count], dim=1)
        velocities = velocity.unsqueeze(1) + offsets.unflatten(1, (count, channels))
        own = torch.zeros_like(velocities[:, :1])
        rates = torch.cat([own, rates.unflatten(1, (count - 1, channels))], dim=1) if count > 1 else own
        return MomentumPolicy(x, t, velocities, rates, logits.unsqueeze(2), shift=self.shift)
