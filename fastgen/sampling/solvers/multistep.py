"""Multistep solvers: they remember what the network said before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.processes import Process, expand
from fastgen.randomness import Draws
from fastgen.sampling.solvers.base import Solver


@dataclass(frozen=True)
class Answer:
    """What the network said at one of a solver's times.

    Attributes:
        x_t: Where it was asked, as corrected by then, (B, ...).
        x0: The clean sample that it predicted, (B, ...).
        alpha: Of that time, (B,).
        sigma: Of that time, (B,).
    """

    x_t: Tensor
    x0: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def level(self) -> Tensor:
        """``log(alpha / sigma)``, half the logarithm of the signal-to-noise ratio, (B,): -inf for noise alone."""
        return torch.log(self.alpha) - torch.log(self.sigma)


@dataclass(frozen=True)
class Multistep(Solver, ABC):
    """Solvers in ``log(alpha / sigma)`` that predict data, with one call a step.

    diffusers has them for tables of betas and for flows; these are exact on every process and time, and equal to its
    schedulers where those know the times (tested). Where a step is infinite in that variable, from pure noise or to
    data, what was said before has no weight: it is one of first order, the limit of the formulas.
    """

    def evaluations(self, steps: int) -> int:
        return steps

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        """A step that remembers nothing is one of first order: DDIM."""
        return denoiser.process.jump(self.predict(denoiser, x_t, t, condition), s)

    def path(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Sequence[Tensor],
        condition: Condition,
        draws: Draws | None = None,
    ) -> Iterator[Tensor]:
        process, known = denoiser.process, list[Answer]()
        for t, s in pairwise(times):
            said = Answer(x, self.predict(denoiser, x, t, condition).x0, *process.coefficients(t))
            known = [*known[-1:], Answer(self.corrected(known, said), said.x0, said.alpha, said.sigma)]
            x = self.advance(known, process, s)
            yield x

    def corrected(self, known: Sequence[Answer], said: Answer) -> Tensor:
        """The state at the time of the newest answer, once that is known; by default it stays what it was."""
        return said.x_t

    @abstractmethod
    def advance(self, known: Sequence[Answer], process: Process, s: Tensor) -> Tensor:
        """The state at ``s`` (B,) from the last two answers at most, the newest last."""


def first_order(before: Answer, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The DDIM step (B, ...) from an answer, and the weight (B,) that x0 has in it.

    ``x_s = (sigma_s / sigma_t) x_t + w x0`` with ``w = alpha_s - alpha_t sigma_s / sigma_t``, which is
    ``alpha_s (1 - e^-h)`` for a step h of ``log(alpha / sigma)``.
    """
    ratio = sigma / before.sigma
    weight = alpha - before.alpha * ratio
    return expand(ratio, before.x_t) * before.x_t + expand(weight, before.x0) * before.x0, weight


def second_order(known: Sequence[Answer], process: Process, s: Tensor) -> Tensor:
    """The step of DPM-Solver++(2M) to ``s`` (B,); of first order where it is infinite or nothing was said before."""
    now = known[-1]
    alpha, sigma = process.coefficients(s)
    x_s, weight = first_order(now, alpha, sigma)
    if len(known) < 2:
        return x_s
    before = known[-2]
    step, last = torch.log(alpha) - torch.log(sigma) - now.level, now.level - before.level
    share = torch.where(torch.isfinite(step) & torch.isfinite(last), 0.5 * step / last, 0.0)
    return x_s + expand(weight * share, x_s) * (now.x0 - before.x0)
