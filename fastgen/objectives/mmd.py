"""Maximum mean discrepancy: how far two sets of features are apart (Gretton et al. 2012, JMLR 13)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.objectives.base import Objective
from fastgen.objectives.metrics import elementwise_huber


class Kernel(Objective, ABC):
    """A similarity of two features."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """``k(a_i, b_j)``, (..., N, M), of rows ``a`` (..., N, D) and ``b`` (..., M, D)."""


@dataclass(frozen=True)
class LinearKernel(Kernel):
    """``a . b``: the discrepancy is then the squared distance of the means."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.mT


@dataclass(frozen=True)
class RBFKernel(Kernel):
    """``exp(-|a - b|^2 / (2 bandwidth^2))``: zero discrepancy means equal laws, not just equal means.

    Args:
        bandwidth: Distance at which features begin to look different; 100 in SwD (arXiv 2503.16397).
    """

    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, bandwidth=self.bandwidth)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        gap = a[..., :, None, :] - b[..., None, :, :]  # not by cdist, whose gradient at 0 is not finite
        return torch.exp(-gap.square().sum(-1) / (2.0 * self.bandwidth**2))


class SetDistance(Objective, ABC):
    """How far two sets of features are apart, one number for all pairs of sets."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """A scalar for the sets ``a`` (B, N, D) and ``b`` (B, M, D)."""


@dataclass(frozen=True)
class MeanGap(SetDistance):
    """``mean (sqrt((mean_i a_i - mean_j b_j)^2 + c^2) - c)``: see :func:`huber_mean_gap`.

    Args:
        c: Where the distance turns from squares to absolute values.
    """

    c: float = 1e-3

    def __post_init__(self) -> None:
        checks.positive(self, c=self.c)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return huber_mean_gap(a, b, self.c)


@dataclass(frozen=True)
class Discrepancy(SetDistance):
    """``mean_B MMD^2`` with a kernel: see :func:`mmd2`.

    Args:
        kernel: The similarity of two features.
        unbiased: Leave out the pairs of an element with itself.
    """

    kernel: Kernel = RBFKernel(100.0)
    unbiased: bool = True

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return mmd2(a, b, self.kernel, self.unbiased).mean()


def mmd2(a: Tensor, b: Tensor, kernel: Kernel, unbiased: bool = False) -> Tensor:
    """Squared discrepancy (...) of the sets ``a`` (..., N, D) and ``b`` (..., M, D).

    ``mean k(a, a') + mean k(b, b') - 2 mean k(a, b)``. With all pairs (a V-statistic) it is never negative and 0 for
    equal sets, but its mean over draws of one law is above 0, by the variance of the features over N and M: minimising
    it narrows small sets. ``unbiased`` leaves out the pairs of an element with itself (a U-statistic).

    Raises:
        UserError: If ``unbiased`` sets have one element.
    """
    if unbiased and min(a.shape[-2], b.shape[-2]) < 2:
        raise UserError("An unbiased discrepancy needs two samples or more; raise batch_size, or set unbiased: false.")

    def within(x: Tensor) -> Tensor:
        values, count = kernel(x, x), x.shape[-2]
        if not unbiased:
            return values.mean((-2, -1))
        return (values.sum((-2, -1)) - values.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))

    return within(a) + within(b) - 2.0 * kernel(a, b).mean((-2, -1))


def huber_mean_gap(a: Tensor, b: Tensor, c: float = 1e-3) -> Tensor:
    """``mean (sqrt((mean_i a_i - mean_j b_j)^2 + c^2) - c)`` of rows ``a`` (..., N, D) and ``b`` (..., M, D).

    The square root of the linear discrepancy, element by element and smooth at 0: the loss of SwD's tokens (Starodubcev
    et al. 2025, arXiv 2503.16397, in its code).
    """
    gap = a.mean(-2) - b.mean(-2)
    return elementwise_huber(gap, c).mean()
