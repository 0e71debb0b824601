"""Process: how data becomes noise, and how samples move between noise levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fastgen.configuration.components import Component
from fastgen.randomness import Draws
from fastgen.shapes import expand

if TYPE_CHECKING:
    from fastgen.processes.prediction import Prediction


class Process(Component, ABC):
    """A Gaussian noising process. Subclasses give alpha, sigma, their derivatives and the inverse of the ratio."""

    t_clean: ClassVar[float] = 0.0
    """The time at which ``x_t`` is data: alpha = 1, sigma = 0. No network is called there."""

    @property
    @abstractmethod
    def t_max(self) -> float:
        """The noisiest time that a network is called at."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(alpha, sigma)`` at times ``t``, in the dtype of ``t``."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(d alpha / dt, d sigma / dt)`` at times ``t``."""

    @abstractmethod
    def time(self, ratio: Tensor) -> Tensor:
        """The time at which ``sigma / alpha`` equals ``ratio``."""

    def time_within(self, ratio: Tensor) -> Tensor:
        """:meth:`time`, but at most ``t_max``; a rounding error above it is left, so that no derivative is lost."""
        return self.time(ratio).clamp(max=self.t_max * (1.0 + 1e-6))

    def ratio(self, t: Tensor) -> Tensor:
        """``sigma / alpha``, the noise level of the equivalent EDM process. Strictly increasing in ``t``."""
        alpha, sigma = self.coefficients(t)
        return sigma / alpha

    def alpha(self, t: Tensor) -> Tensor:
        return self.coefficients(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.coefficients(t)[1]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``x_t = alpha(t) x0 + sigma(t) noise``."""
        alpha, sigma = (expand(c, x0) for c in self.coefficients(t))
        return alpha * x0 + sigma * noise

    def prior(self, draws: Draws, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """What generation starts from, (B, *shape), before :meth:`start` scales it: standard normal noise."""
        return draws.normal("noise", shape, dtype)

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """The input of a sampler that begins at ``t``: noise around the zero sample, ``sigma(t) noise``."""
        return expand(self.sigma(t), noise) * noise

    def solver_start(self, noise: Tensor, t: Tensor) -> Tensor:
        """The input of a many-step solver whose grid begins at ``t``."""
        return self.start(noise, t)

    def jump(self, prediction: Prediction, s: Tensor) -> Tensor:
        """Move to time ``s`` along the predicted x0 and the predicted noise (DDIM, Song et al. 2020, 2010.02502)."""
        return self.add_noise(prediction.x0, prediction.noise, s)

    def trapezoid(self, x_t: Tensor, t: Tensor, s: Tensor, first: Prediction, second: Prediction) -> Tensor:
        """Move from ``t`` to ``s`` with the mean of the slopes that two predictions give (the second-order Heun step).

        ``first`` is made at ``t``, ``second`` at ``s``; the slope is the velocity in this process's own time.
        """
        return x_t + expand(s - t, x_t) * 0.5 * (first.velocity + second.velocity)

    def kernel(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and standard deviation of the Markov kernel ``q(x_t | x_s)`` for ``t >= s``."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.coefficients(s), self.coefficients(t)
        scale = alpha_t / alpha_s
        return scale, (sigma_t.square() - (scale * sigma_s).square()).clamp(min=0.0).sqrt()

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Sample the Markov kernel ``q(x_t | x_s)`` for ``t >= s`` with the given standard normal ``noise``."""
        scale, deviation = (expand(c, x_s) for c in self.kernel(s, t))
        return scale * x_s + deviation * noise

    def grid(self, steps: int, start: float | None = None) -> list[float]:
        """``steps`` decreasing times from ``start`` (default ``t_max``), evenly down to the clean end (excluded)."""
        first = self.t_max if start is None else start
        return [first + (self.t_clean - first) * i / steps for i in range(steps)]

    def student_grid(self, steps: int, start: float | None = None) -> list[float]:
        """``steps`` decreasing times from ``start`` at which a few-step student is called."""
        return self.grid(steps, start)

    def position(self, u: Tensor) -> Tensor:
        """The time at fraction ``u`` in [0, 1] of the levels that networks of this process are trained at."""
        return u * self.t_max

    def fraction(self, t: Tensor) -> Tensor:
        """The inverse of :meth:`position`; times beyond the trained levels, such as the clean end, count as 0 or 1."""
        return (t / self.t_max).clamp(0.0, 1.0)

    def solver_grid(self, steps: int) -> list[float]:
        """Decreasing times at which a many-step solver calls its network; a last step leads to the clean end."""
        return self.grid(steps)

    def warp(self, x_t: Tensor, t: Tensor, to: Process) -> tuple[Tensor, Tensor]:
        """The same sample at the same signal-to-noise ratio, scaled and timed as in the process ``to``.

        Networks of ``to`` know no noisier level than its ``t_max``; what lies above it is taken there, its noise scaled
        to that level.
        """
        s = to.time_within(self.ratio(t))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.coefficients(t), to.coefficients(s)
        # Both quotients are the same number; each is accurate (and finite) where the other is not.
        scale = torch.where(sigma_t > alpha_t, sigma_s / sigma_t, alpha_s / alpha_t)
        return x_t * expand(scale, x_t), s
