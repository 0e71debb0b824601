"""Kernel two-sample distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.metrics.samples.feature_metric import FeatureMetric, Features
from fastgen.results.kinds import Kind

Kernel = Callable[[Tensor, Tensor], Tensor]
"""``kernel(x, y)`` of (N, D) and (M, D) is the (N, M) matrix of k(x_i, y_j)."""


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """``(x . y / D + 1)^3`` (Binkowski et al. 2018, arXiv 1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_sum(x: Tensor, y: Tensor, kernel: Kernel, block: int = 2048) -> Tensor:
    """Sum of k over all pairs, in fp64, block by block."""
    return sum(
        (kernel(rows, columns).sum() for rows in x.double().split(block) for columns in y.double().split(block)),
        start=torch.zeros((), dtype=torch.float64, device=x.device),
    )


def mean_across(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """Mean of k over all pairs of x (N, D) and y (M, D): estimates E k(X, Y)."""
    return kernel_sum(x, y, kernel) / (len(x) * len(y))


def mean_within(x: Tensor, kernel: Kernel, label: Tensor | None = None, block: int = 2048) -> Tensor:
    """Unbiased estimate of E k(X, X') from x (N, D): the mean over all pairs of different samples.

    With labels (N,) the shares of the classes are taken as fixed by design, as they are for balanced samples. Then two
    samples are of one class less often than two independent ones, and the plain mean is too small; so pairs within a
    class of n_c are weighted by n_c / (n_c - 1). A class of one sample leaves the plain mean.
    """
    groups = [x] if label is None else [x[label == c] for c in label.unique()]
    if min(len(group) for group in groups) < 2:
        groups = [x]
    total = kernel_sum(x, x, kernel) if len(groups) > 1 else 0.0
    for group in groups:
        full = kernel_sum(group, group, kernel)
        itself = sum(kernel(rows, rows).diagonal().sum() for rows in group.double().split(block))
        if len(groups) > 1:
            total = total - full
        total = total + (full - itself) * len(group) / (len(group) - 1)
    return torch.as_tensor(total) / len(x) ** 2


def gaussian_kernel(bandwidth: float) -> Kernel:
    """``exp(-|x - y|^2 / (2 bandwidth^2))``."""
    return lambda x, y: torch.exp(torch.cdist(x, y).square() / (-2 * bandwidth**2))


def mmd2(x: Tensor, y: Tensor, kernel: Kernel, x_label: Tensor | None = None, y_label: Tensor | None = None) -> float:
    """Unbiased squared maximum mean discrepancy of x (N, D) and y (M, D) (Gretton et al. 2012, JMLR 13, eq. 3).

    Exact over all pairs, not a mean over random subsets. May be slightly negative. Labels as in :func:`mean_within`.
    """
    within = mean_within(x, kernel, x_label) + mean_within(y, kernel, y_label)
    return float(within - 2 * mean_across(x, y, kernel))


@dataclass(frozen=True)
class KernelDistance(FeatureMetric):
    """Kernel distance of features ("KID", not multiplied by 1000): unbiased, so it can be compared across counts.

    Gives ``kid``. If samples and reference have labels, their class shares count as fixed (see :func:`mean_within`).
    """

    numbers = {"kid": Kind("fidelity", "lower")}

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """``{"kid": squared distance}``."""
        known = samples.label is not None and reference.label is not None
        labels = (samples.label, reference.label) if known else (None, None)
        return {"kid": mmd2(samples.values, reference.values, polynomial_kernel, *labels)}
