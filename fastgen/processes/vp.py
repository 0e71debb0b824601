"""VP: the variance-preserving process of discrete steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """``sigma(t) noise``, but pure noise at the last step: networks were trained to take N(0, I) for x_T there."""
        level = torch.where(t >= self.t_max, torch.ones_like(t), self.sigma(t))
        return expand(level, noise) * noise
