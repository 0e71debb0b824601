"""VP: the variance-preserving process of discrete steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.processes.base import Process
from fastgen.processes.prediction import Prediction
from fastgen.shapes import expand


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


@lru_cache(maxsize=64)
def log_alpha2_of(
    beta_start: float, beta_end: float, steps: int, schedule: str, betas: tuple[float, ...], device: torch.device
) -> Tensor:
    """log(alpha^2) at steps -1, 0, .. N-1 of a schedule, or of ``betas`` if there are any; fp64, made on the CPU."""
    with torch.inference_mode(False):  # it stays, and training may ask for it later
        given = torch.tensor(betas, dtype=torch.float64, device="cpu")
        table = given if betas else betas_of(beta_start, beta_end, steps, schedule)
        log_alpha2 = torch.cumsum(torch.log1p(-table), 0)
        return torch.cat([torch.zeros_like(log_alpha2[:1]), log_alpha2]).to(device)


@dataclass(frozen=True)
class VP(Process):
    """Variance preserving with discrete steps, given by betas (Ho et al. 2020, arXiv 2006.11239).

    Times are steps 0 .. N-1 as networks know them; between steps log(alpha^2) is interpolated linearly. Step -1 is the
    clean end.

    Args:
        beta_start: First beta.
        beta_end: Last beta.
        steps: Number of steps N.
        schedule: ``scaled_linear`` (linear in sqrt(beta): SD1.5, SD2.1, SDXL) or ``linear`` (DDPM).
        betas: Any other increasing noise table, in place of the four.
    """

    t_clean: ClassVar[float] = -1.0
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000
    schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    betas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "()", beta_start=self.beta_start, beta_end=self.beta_end)
        checks.ascending(self, beta_start=self.beta_start, beta_end=self.beta_end)
        checks.whole(self, 2, checks.MOST_STEPS, steps=self.steps)
        if not self.betas:
            betas_of(self.beta_start, self.beta_end, self.steps, self.schedule)
            return
        checks.between(self, 0.0, 1.0, "()", betas=self.betas)
        if len(self.betas) < 2:
            raise UserError("VP: betas must be at least two numbers in (0, 1); mend the noise table.")

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> Self:
        """A process with any increasing noise table, e.g. a diffusers scheduler's ``betas``."""
        return cls(betas=tuple(torch.as_tensor(betas, dtype=torch.float64, device="cpu").flatten().tolist()))

    @property
    def t_max(self) -> float:
        return float(len(self.betas) or self.steps) - 1.0

    def _table(self, device: torch.device) -> Tensor:
        """log(alpha^2) at steps -1, 0, .. N-1 in fp64, cached per device."""
        return log_alpha2_of(self.beta_start, self.beta_end, self.steps, self.schedule, self.betas, device)

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

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """``sigma(t) noise``, but pure noise at the last step: networks were trained to take N(0, I) for x_T there."""
        level = torch.where(t >= self.t_max, torch.ones_like(t), self.sigma(t))
        return expand(level, noise) * noise
