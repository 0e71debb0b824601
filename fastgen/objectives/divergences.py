"""f-divergences as weights of the score difference (Xu et al. 2025, f-distill, arXiv 2502.15681, table 1).

For ``D_f(p || q) = int q f(p / q)`` between the teacher's p and the student's q, the gradient of the divergence,
integrated over noise levels, is the reverse Kullback-Leibler one with every sample weighted by ``h(r) = r^2 f''(r)`` at
its density ratio ``r = p / q``. Constant factors of h do not matter once it is normalised, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal[
    "reverse_kl",
    "softened_reverse_kl",
    "jensen_shannon",
    "squared_hellinger",
    "forward_kl",
    "jeffreys",
    "neyman",
    "chi_square",
]

GENERATORS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda r: -r.log(),
    "softened_reverse_kl": lambda r: (r + 1.0) * (0.5 + 0.5 / r).log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1.0) * (0.5 * (r + 1.0)).log(),
    "squared_hellinger": lambda r: 4.0 * (1.0 - r.sqrt()),  # four times that of the table, so that h is sqrt(r)
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1.0) * r.log(),
    "neyman": lambda r: 0.5 * (1.0 - r).square() / r,  # half of that of the table
    "chi_square": lambda r: 0.5 * (r - 1.0).square(),
}
"""f(r) of each divergence."""

WEIGHTS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,
    "softened_reverse_kl": lambda r: 1.0 / (1.0 + r),
    "jensen_shannon": lambda r: r / (1.0 + r),
    "squared_hellinger": torch.sqrt,
    "forward_kl": lambda r: r,
    "jeffreys": lambda r: 1.0 + r,
    "neyman": lambda r: 1.0 / r.clamp(min=1e-8),
    "chi_square": torch.square,
}
"""h(r) = r^2 f''(r) of each divergence; mode-seeking where it falls with r, mass-covering where it grows."""


def density_ratio(logits: Tensor, limit: float = 10.0, low: float = 0.1, high: float = 20.0) -> Tensor:
    """``real / fake`` (B,) from a discriminator's logits (B, heads), with the bounds of f-distill."""
    return logits.flatten(1).mean(1).clamp(-limit, limit).exp().clamp(low, high)


def weight_and_slope(divergence: Divergence, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """``h(r)`` and ``r h'(r)`` (B,) at ratios (B,); both differentiable."""
    found = torch.func.jvp(WEIGHTS[divergence], (ratio,), (ratio,))
    return found[0], found[1]


def gaussian_kl(mean: Tensor, variance: Tensor, real_mean: float, real_variance: float) -> Tensor:
    """``1/2 [(s^2 + (m - m*)^2) / s*^2 - 1 - log(s^2 / s*^2)]``: from N(m*, s*^2) to N(m, s^2), elementwise."""
    ratio = variance / real_variance
    return 0.5 * (ratio + (mean - real_mean).square() / real_variance - 1.0 - ratio.log())
