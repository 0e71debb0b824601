"""Langevin chains that correct where a generator's noisy samples come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.randomness import Draws

Drift = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of a latent z and a noise, both (B, ...), the pushes on each, beyond those towards their normal priors."""

Kicks = Sequence[tuple[Tensor, Tensor]]
"""Standard normal noise on the latent and on the noise, for every step of a chain."""


@dataclass(frozen=True)
class Product:
    """A term of an expectation: ``sign * J(latent)^T noise``.

    Attributes:
        sign: 1, or -1 for what is subtracted.
        latent: Where the generator is differentiated, (B, ...).
        noise: What its output is moved along, (B, ...).
    """

    sign: float
    latent: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Langevin(Component):
    """Unadjusted Langevin steps on the pair of a latent and a noise, which begin independent and standard normal.

    ``u <- u + step / 2 (push - u) + sqrt(step) kick`` for both, the step being the square of the paper's gamma.

    Args:
        steps: Number of steps; each asks for the pushes once.
        noise_step: Step of the noise: 0.4^2.
        latent_step: Step of the latent: 0.004^2.
        cancel: What takes the variance of the kicks out of products: a ``reference`` chain with the same kicks and no
            push, whose product has the mean 0 at any step and which equals the chain where nothing pushes; the
            ``injected`` noise itself, subtracted from the noise's end as in the paper, which is biased as soon as the
            latent moves; or ``nothing``.
    """

    steps: int = 8
    noise_step: float = 0.16
    latent_step: float = 1.6e-5
    cancel: Literal["reference", "injected", "nothing"] = "reference"

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        checks.between(self, 0.0, 2.0, "()", noise_step=self.noise_step)
        checks.between(self, 0.0, 2.0, "[)", latent_step=self.latent_step)

    def kicks(self, draws: Draws, shape: Sequence[int], dtype: torch.dtype) -> Kicks:
        """What moves the chain, from ``draws``."""
        scopes = [draws.scoped(f"langevin{i}") for i in range(self.steps)]
        return [(scope.normal("latent", shape, dtype), scope.normal("noise", shape, dtype)) for scope in scopes]

    def move(self, at: Tensor, push: Tensor | float, kick: Tensor, step: float) -> Tensor:
        """One step of one variable."""
        return at + 0.5 * step * (push - at) + step**0.5 * kick

    def chain(self, latent: Tensor, noise: Tensor, kicks: Kicks, drift: Drift | None = None) -> tuple[Tensor, Tensor]:
        """Where ``latent`` and ``noise`` (B, ...) are after all steps; without ``drift`` only the priors pull."""
        for on_latent, on_noise in kicks:
            to_latent, to_noise = (0.0, 0.0) if drift is None else drift(latent, noise)
            latent = self.move(latent, to_latent, on_latent, self.latent_step)
            noise = self.move(noise, to_noise, on_noise, self.noise_step)
        return latent, noise

    def products(self, latent: Tensor, noise: Tensor, kicks: Kicks, drift: Drift) -> list[Product]:
        """The terms whose sum estimates ``E J(latent)^T noise`` at the chain's end."""
        last, found = self.chain(latent, noise, kicks, drift)
        if self.cancel == "injected":
            injected = noise + self.noise_step**0.5 * torch.stack([kick for _, kick in kicks]).sum(0)
            return [Product(1.0, last, found - injected)]
        own = [Product(1.0, last, found)]
        return own if self.cancel == "nothing" else [*own, Product(-1.0, *self.chain(latent, noise, kicks))]
