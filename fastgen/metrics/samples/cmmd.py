"""The kernel distance of unit vectors, made for CLIP."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from fastgen.metrics.samples.feature_metric import FeatureMetric, Features
from fastgen.metrics.samples.kernel import gaussian_kernel, mean_across
from fastgen.results.kinds import Kind

BANDWIDTH = 10.0
SCALE = 1000.0


def cmmd(x: Tensor, y: Tensor) -> float:
    """1000 times the biased squared discrepancy of x (N, D) and y (M, D), scaled to unit length, fp64.

    The kernel is Gaussian with bandwidth 10 and pairs of a sample with itself count.

    Source: Jayasumana et al. 2023, arXiv 2401.09603, section 4; constants of the released code.
    """
    x, y = functional.normalize(x.double(), dim=1), functional.normalize(y.double(), dim=1)
    kernel = gaussian_kernel(BANDWIDTH)
    return float(SCALE * (mean_across(x, x, kernel) + mean_across(y, y, kernel) - 2 * mean_across(x, y, kernel)))


@dataclass(frozen=True)
class CMMD(FeatureMetric):
    """:func:`cmmd` of all samples and the reference; gives ``cmmd``.

    The name belongs to features of CLIP ViT-L/14 at 336 pixels, 30,000 on both sides; it is biased, so compare at
    equal counts.
    """

    numbers = {"cmmd": Kind("fidelity", "lower")}

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """``{"cmmd": 1000 * squared distance}``."""
        return {"cmmd": cmmd(samples.values, reference.values)}
