"""The gradient estimators of EMD beside each other: mean and variance of one sample's product, in one dimension.

    python -m benchmarks.emd_variance    # seconds; writes benchmarks/results/emd_variance.md

The generator is 0.8 z, the noise level 0.7 (alpha 1), the teacher's law N(0, 1.3^2) and the critic exact. The gradient
of the likelihood in the generator's scale is ``(a / V) (V_T / V - 1)``, V = a^2 + sigma^2 and V_T = 1.3^2 + sigma^2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastgen.sampling.langevin import Langevin

G, SIGMA = 0.8, 0.7
V, V_T = G**2 + SIGMA**2, 1.3**2 + SIGMA**2
TRUTH = G / V * (V_T / V - 1.0)
KINDS: tuple[Literal["nothing", "injected", "reference"], ...] = ("nothing", "injected", "reference")


def estimates(corrector: Langevin, count: int, seed: int = 0) -> Tensor:
    """``count`` independent estimates of the gradient, fp64."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.randn(2 * corrector.steps + 2, count, generator=random, dtype=torch.float64)

    def drift(latent: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        d = (1.0 / V - 1.0 / V_T) * (G * latent + SIGMA * noise)
        return G * d, SIGMA * d

    kicks = list(zip(numbers[2 : 2 + corrector.steps], numbers[2 + corrector.steps :], strict=True))
    products = corrector.products(numbers[0], numbers[1], kicks, drift)
    return torch.stack([p.sign * p.latent * p.noise for p in products]).sum(0) / SIGMA


def main() -> None:
    """Measure and write the table."""
    lines = [
        "# Variance of EMD's gradient",
        "",
        f"`python -m benchmarks.emd_variance`. The likelihood's gradient is {TRUTH:.4f}, for chains that have mixed;",
        "with a latent that hardly moves it is not reached, whatever is cancelled. A million samples.",
        "",
        "| steps | step of the noise | of the latent | cancelled | mean | variance |",
        "|---|---|---|---|---|---|",
    ]
    for steps, slow in ((8, 1.6e-5), (16, 1.6e-5), (16, 0.16), (64, 0.16)):
        for kind in KINDS:
            found = estimates(Langevin(steps, 0.16, slow, kind), 1_000_000)
            lines.append(f"| {steps} | 0.16 | {slow:g} | {kind} | {found.mean():.3f} | {found.var():.2f} |")
    path = Path(__file__).parent / "results" / "emd_variance.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
