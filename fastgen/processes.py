"""How data becomes noise: ``x_t = alpha(t) x0 + sigma(t) noise``; larger ``t`` is noisier.

| process       | time                  | alpha | sigma             | source                                         |
|---------------|-----------------------|-------|-------------------|------------------------------------------------|
| EDM           | t = noise level, 0-80 | 1     | t                 | Karras et al. 2022, arXiv 2206.00364           |
| VP            | step, 0 .. N-1        | table | sqrt(1 - alpha^2) | Ho et al. 2020, arXiv 2006.11239               |
| RectifiedFlow | 0-1                   | 1 - t | t                 | Liu et al. 2022, 2209.03003; Lipman 2210.02747 |
| TrigFlow      | angle, 0-pi/2         | cos t | sigma_data sin t  | Lu & Song 2024, arXiv 2410.11081               |

Shapes: samples ``(B, ...)``, times ``(B,)`` in fp32 or fp64 (never half precision). Conversions run in fp32 or better,
whatever the dtype of the network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.shapes import expand as expand

PredictionKind = Literal["x0", "noise", "v", "velocity", "score"]
PREDICTION_KINDS: tuple[PredictionKind, ...] = ("x0", "noise", "v", "velocity", "score")


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in fp32 if it is narrower, unchanged otherwise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Process(ABC):
    """A Gaussian noising process. Subclasses give alpha, sigma, their derivatives and the inverse of the ratio."""

    t_max: float
    """The noisiest time that a network is called at."""
    t_clean: float = 0.0
    """The time at which ``x_t`` is data: alpha = 1, sigma = 0. No network is called there."""

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


@dataclass(init=False, repr=False, eq=False)
class Prediction:
    """What a denoiser says about ``x_t``; any parametrisation derives from any other.

    Conversions are made anew when asked for: one kept from a look without gradient would cut the graph of the next.

    Args:
        process: The process of ``x_t``.
        x_t: Noisy sample, shape (B, ...).
        t: Times, shape (B,), fp32 or fp64.
        value: The network's answer, shape of ``x_t``.
        kind: What ``value`` is: ``x0``; ``noise``; ``v`` = alpha noise - sigma x0 (Salimans & Ho 2022, 2202.00512);
            ``velocity`` = d x_t / dt of this process; ``score`` = grad log p_t.

    Raises:
        ValueError: If ``kind`` is unknown.
    """

    # Fields are what torch takes for a sharded network's outputs, whose gradients need the weights again.
    value: Tensor
    features: dict[str, Tensor]
    """What :func:`fastgen.denoisers.features.tap` recorded, if it was there."""

    def __init__(self, process: Process, x_t: Tensor, t: Tensor, value: Tensor, kind: PredictionKind) -> None:
        if kind not in PREDICTION_KINDS:
            raise ValueError(f"prediction kind is one of {', '.join(PREDICTION_KINDS)}, got {kind!r}")
        self.process = process
        self.x_t = at_least_float32(x_t)
        self.t = t
        self.value = at_least_float32(value)
        self.kind = kind
        self.features = {}

    @cached_property
    def _alpha_sigma(self) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.coefficients(self.t)
        return expand(alpha, self.x_t), expand(sigma, self.x_t)

    @cached_property
    def _alpha_sigma_dot(self) -> tuple[Tensor, Tensor]:
        alpha_dot, sigma_dot = self.process.derivatives(self.t)
        return expand(alpha_dot, self.x_t), expand(sigma_dot, self.x_t)

    @property
    def x0(self) -> Tensor:
        """E[x0 | x_t]."""
        alpha, sigma = self._alpha_sigma
        match self.kind:
            case "x0":
                return self.value
            case "noise":
                return (self.x_t - sigma * self.value) / alpha
            case "v":
                return (alpha * self.x_t - sigma * self.value) / (alpha.square() + sigma.square())
            case "velocity":
                alpha_dot, sigma_dot = self._alpha_sigma_dot
                return (sigma_dot * self.x_t - sigma * self.value) / (alpha * sigma_dot - sigma * alpha_dot)
            case "score":
                return (self.x_t + sigma.square() * self.value) / alpha

    @property
    def noise(self) -> Tensor:
        """E[noise | x_t]."""
        alpha, sigma = self._alpha_sigma
        match self.kind:
            case "noise":
                return self.value
            case "score":
                return -sigma * self.value
            case "v":
                return (sigma * self.x_t + alpha * self.value) / (alpha.square() + sigma.square())
            case "velocity":
                alpha_dot, sigma_dot = self._alpha_sigma_dot
                return (alpha * self.value - alpha_dot * self.x_t) / (alpha * sigma_dot - sigma * alpha_dot)
            case "x0":
                return (self.x_t - alpha * self.value) / sigma

    @property
    def v(self) -> Tensor:
        """``alpha noise - sigma x0``."""
        if self.kind == "v":
            return self.value
        alpha, sigma = self._alpha_sigma
        return alpha * self.noise - sigma * self.x0

    @property
    def velocity(self) -> Tensor:
        """``d x_t / dt`` along the probability flow of this process."""
        if self.kind == "velocity":
            return self.value
        alpha_dot, sigma_dot = self._alpha_sigma_dot
        return alpha_dot * self.x0 + sigma_dot * self.noise

    @property
    def score(self) -> Tensor:
        """``grad log p_t(x_t) = -noise / sigma``."""
        if self.kind == "score":
            return self.value
        return -self.noise / self._alpha_sigma[1]

    def as_kind(self, kind: PredictionKind) -> Tensor:
        """This prediction in another parametrisation."""
        return getattr(self, kind)

    def detach(self) -> Prediction:
        return Prediction(self.process, self.x_t.detach(), self.t, self.value.detach(), self.kind)

    def guided(self, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """Classifier-free guidance ``uncond + scale (cond - uncond)``; every kind is affine in the value.

        ``scale`` is a number, or one per sample (B,).
        """
        scale = expand(scale, self.value) if isinstance(scale, Tensor) else scale
        value = unconditional.value + scale * (self.value - unconditional.value)
        return Prediction(self.process, self.x_t, self.t, value, self.kind)


class EDM(Process):
    """x_t = x0 + t noise (Karras et al. 2022, arXiv 2206.00364).

    Args:
        sigma_min: Lowest noise level of sampling grids.
        sigma_max: Highest noise level.
        rho: Exponent of the sampling grid, eq. 5.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        checks.positive(self, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
        checks.strictly_ascending(self, sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.t_max = sigma_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        return ratio

    def position(self, u: Tensor) -> Tensor:
        """Noise level at the fraction ``u`` of the rho grid; 0 is ``sigma_min``, 1 is ``sigma_max``."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + u * (high - low)) ** self.rho

    def fraction(self, t: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return ((t.clamp(min=0.0) ** (1 / self.rho) - low) / (high - low)).clamp(0.0, 1.0)

    def grid(self, steps: int, start: float | None = None) -> list[float]:
        first = self.t_max if start is None else start
        low, high = min(self.sigma_min, first) ** (1 / self.rho), first ** (1 / self.rho)
        return [(high + i / max(steps - 1, 1) * (low - high)) ** self.rho for i in range(steps)]

    def student_grid(self, steps: int, start: float | None = None) -> list[float]:
        """Without ``sigma_min``, where there is so little noise that a call changes nothing."""
        return self.grid(steps + 1, start)[:-1]


def betas_of(beta_start: float, beta_end: float, steps: int, schedule: str) -> Tensor:
    """The betas (steps,) of a schedule, fp64: ``scaled_linear`` (linear in sqrt(beta)) or ``linear``.

    Raises:
        UserError: If there is no such schedule.
    """
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64, device="cpu").square()
    if schedule == "linear":
        return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64, device="cpu")
    raise UserError(f"schedule must be scaled_linear or linear, got {schedule!r}.")


class VP(Process):
    """Variance preserving with discrete steps, given by betas (Ho et al. 2020, arXiv 2006.11239).

    Times are steps 0 .. N-1 as networks know them; between steps log(alpha^2) is interpolated linearly. Step -1 is the
    clean end.

    Args:
        beta_start: First beta.
        beta_end: Last beta.
        steps: Number of steps N.
        schedule: ``scaled_linear`` (linear in sqrt(beta): SD1.5, SD2.1, SDXL) or ``linear`` (DDPM).
    """

    t_clean = -1.0

    def __init__(
        self,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        steps: int = 1000,
        schedule: Literal["scaled_linear", "linear"] = "scaled_linear",
    ) -> None:
        checks.between(self, 0.0, 1.0, "()", beta_start=beta_start, beta_end=beta_end)
        checks.ascending(self, beta_start=beta_start, beta_end=beta_end)
        checks.whole(self, 2, checks.MOST_STEPS, steps=steps)
        self._set_betas(betas_of(beta_start, beta_end, steps, schedule))

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> VP:
        """A process with any increasing noise table, e.g. a diffusers scheduler's ``betas``."""
        process = cls.__new__(cls)
        process._set_betas(torch.as_tensor(betas, dtype=torch.float64, device="cpu"))
        return process

    def _set_betas(self, betas: Tensor) -> None:
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise UserError("VP: betas must be at least two numbers in (0, 1); mend the noise table.")
        log_alpha2 = torch.cumsum(torch.log1p(-betas), 0)
        self._log_alpha2 = {torch.device("cpu"): torch.cat([torch.zeros_like(log_alpha2[:1]), log_alpha2])}
        self.t_max = float(len(betas) - 1)

    def _table(self, device: torch.device) -> Tensor:
        """log(alpha^2) at steps -1, 0, .. N-1 in fp64, cached per device."""
        if device not in self._log_alpha2:
            self._log_alpha2[device] = self._log_alpha2[torch.device("cpu")].to(device)
        return self._log_alpha2[device]

    def _interpolate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """log(alpha^2) and its slope at ``t`` in fp64."""
        table = self._table(t.device)
        position = (t.double() + 1.0).clamp(0.0, len(table) - 1.0)
        index = position.floor().long().clamp(max=len(table) - 2)
        slope = table[index + 1] - table[index]
        return table[index] + slope * (position - index), slope

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha2, _ = self._interpolate(t)
        return torch.exp(0.5 * log_alpha2).to(t.dtype), torch.sqrt(-torch.expm1(log_alpha2)).to(t.dtype)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha2, slope = self._interpolate(t)
        alpha, sigma = torch.exp(0.5 * log_alpha2), torch.sqrt(-torch.expm1(log_alpha2))
        alpha_dot = 0.5 * slope * alpha
        return alpha_dot.to(t.dtype), (-alpha * alpha_dot / sigma).to(t.dtype)

    def time(self, ratio: Tensor) -> Tensor:
        table = self._table(ratio.device)
        log_alpha2 = -torch.log1p(ratio.double().square())
        index = torch.searchsorted(-table, -log_alpha2).clamp(1, len(table) - 1)
        fraction = (log_alpha2 - table[index - 1]) / (table[index] - table[index - 1])
        return (index - 2 + fraction).to(ratio.dtype)

    def solver_grid(self, steps: int) -> list[float]:
        """Even steps from the last to step 0: the jump from there to data is the shortest that networks know."""
        return [self.t_max * (1.0 - i / max(steps - 1, 1)) for i in range(steps)]

    def trapezoid(self, x_t: Tensor, t: Tensor, s: Tensor, first: Prediction, second: Prediction) -> Tensor:
        """As the base class, but in x / alpha over sigma / alpha, where the flow bends far less than in steps."""
        (alpha_t, _), (alpha_s, _) = self.coefficients(t), self.coefficients(s)
        slope = 0.5 * (first.noise + second.noise)
        return expand(alpha_s, x_t) * (x_t / expand(alpha_t, x_t) + expand(self.ratio(s) - self.ratio(t), x_t) * slope)

    def prior(self, draws: Draws, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """What generation starts from, (B, *shape), before :meth:`start` scales it: standard normal noise."""
        return draws.normal("noise", shape, dtype)

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """``sigma(t) noise``, but pure noise at the last step: networks were trained to take N(0, I) for x_T there."""
        level = torch.where(t >= self.t_max, torch.ones_like(t), self.sigma(t))
        return expand(level, noise) * noise


class RectifiedFlow(Process):
    """x_t = (1 - t) x0 + t noise; the velocity is noise - x0.

    Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747.

    Args:
        shift: Factor s of sampling grids, t -> s t / (1 + (s - 1) t) (Esser et al. 2024, arXiv 2403.03206).
    """

    def __init__(self, shift: float = 1.0) -> None:
        checks.positive(self, shift=shift)
        self.shift = shift
        self.t_max = 1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - t, t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.where(torch.isinf(ratio), torch.ones_like(ratio), ratio / (1.0 + ratio))

    def grid(self, steps: int, start: float | None = None) -> list[float]:
        shifted = self.t_max if start is None else start
        first = shifted / (self.shift - (self.shift - 1.0) * shifted)
        linear = (first * (1.0 - i / steps) for i in range(steps))
        return [self.shift * t / (1.0 + (self.shift - 1.0) * t) for t in linear]


class TrigFlow(Process):
    """x_t = cos(t) x0 + sin(t) sigma_data noise (Lu & Song 2024, arXiv 2410.11081, eq. 4).

    Args:
        sigma_data: Standard deviation of the data.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        checks.positive(self, sigma_data=sigma_data)
        self.sigma_data = sigma_data
        self.t_max = math.pi / 2

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # In fp32 pi/2 is rounded up and its cosine is negative, which would turn the ratio's sign.
        return torch.cos(t).clamp(min=0.0), self.sigma_data * torch.sin(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.sin(t), self.sigma_data * torch.cos(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio / self.sigma_data)
