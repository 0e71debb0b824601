"""DDIM: fresh noise on the way, as much as is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import Prediction, expand
from fastgen.randomness import Draws
from fastgen.sampling.solvers.base import Solver


@dataclass(frozen=True)
class DDIM(Solver):
    """Denoising diffusion implicit models (Song et al. 2020, arXiv 2010.02502, eq. 12 and 16), on any process.

    ``x_s = alpha_s x0 + sqrt(sigma_s^2 - v^2) noise + v z`` with ``v = eta sigma_s sigma_{t|s} / sigma_t``, the
    deviation of ``q(x_s | x_t, x0)``, and z fresh. With ``eta`` 0 it is ``Euler``, with 1 ancestral sampling (DDPM).

    diffusers' ``DDIMScheduler`` knows whole steps of VP only; there it gives the same numbers (tested).

    Args:
        steps: Number of steps from ``t_max`` to data.
        guidance: Classifier-free guidance scale; 1 means none.
        eta: Share of the fresh noise, from 0 to 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fraction(self, eta=self.eta)

    def evaluations(self, steps: int) -> int:
        return steps

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        if self.eta:
            raise UserError(
                "DDIM with fresh noise makes whole samples only; set its eta to 0 where single steps of a solver are "
                "needed, or take Euler."
            )
        return denoiser.process.jump(self.predict(denoiser, x_t, t, condition), s)

    def path(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Sequence[Tensor],
        condition: Condition,
        draws: Draws | None = None,
    ) -> Iterator[Tensor]:
        """As :meth:`Solver.path`.

        Raises:
            UserError: If there is noise to be drawn and nothing to draw it from.
        """
        if not self.eta:
            yield from super().path(denoiser, x, times, condition)
            return
        if draws is None:
            raise UserError("DDIM draws fresh noise here, where a sample must follow from its first; set its eta to 0.")
        for number, (t, s) in enumerate(pairwise(times), 1):
            fresh = draws.normal(f"ddim{number}", x.shape[1:], x.dtype)
            x = self.noisy_step(self.predict(denoiser, x, t, condition), s, fresh)
            yield x

    def noisy_step(self, prediction: Prediction, s: Tensor, fresh: Tensor) -> Tensor:
        """To ``s`` (B,) with standard normal ``fresh`` noise (B, ...)."""
        process, t = prediction.process, prediction.t
        (alpha_s, sigma_s), (_, between) = process.coefficients(s), process.kernel(s, t)
        added = self.eta * sigma_s * between / process.sigma(t)
        kept = (sigma_s.square() - added.square()).clamp(min=0.0).sqrt()
        alpha_s, kept, added = (expand(c, fresh) for c in (alpha_s, kept, added))
        return alpha_s * prediction.x0 + kept * prediction.noise + added * fresh
