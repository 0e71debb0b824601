"""Numbers of few bits, as the fp32 numbers that they stand for: what networks are quantised to when they are served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.configuration.components import Component

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What E2M1 can say, beside the sign."""
LARGEST_FP8 = 448.0
SMALLEST_FP8 = 2.0**-9
BLOCK = 16


class NumberFormat(Component, ABC):
    """Rounds tensors to the numbers of a format."""

    @abstractmethod
    def rounded(self, values: Tensor, by_sample: bool = False) -> Tensor:
        """``values`` (..., K) on the grid, in their dtype; rounding again changes nothing.

        Args:
            values: Weights (out, K), or activations (B, ..., K); products are summed over the last axis.
            by_sample: Scale each of the leading axis by its own largest value, so that a sample does not depend on the
                others of its batch.
        """


def largest(values: Tensor, by_sample: bool) -> Tensor:
    """The largest absolute value, of all or of each sample, to be broadcast; never 0."""
    top = values.abs().flatten(1).amax(1) if by_sample else values.abs().amax()[None]
    top = torch.where(top > 0, top, torch.ones_like(top))
    return top.reshape(-1, *[1] * (values.ndim - 1))


@dataclass(frozen=True)
class FP8(NumberFormat):
    """E4M3 with one scale for a tensor, ``amax / 448``."""

    def rounded(self, values: Tensor, by_sample: bool = False) -> Tensor:
        wide = values.float()
        scale = largest(wide, by_sample) / LARGEST_FP8
        return (e4m3(wide / scale) * scale).to(values.dtype)


@dataclass(frozen=True)
class NVFP4(NumberFormat):
    """E2M1 in blocks of 16 along the summed axis, each with an E4M3 scale, and ``amax / (6 * 448)`` for the tensor.

    NVIDIA 2025; a block scale that is rounded down cuts the block's largest value.
    """

    def rounded(self, values: Tensor, by_sample: bool = False) -> Tensor:
        wide = values.float()
        whole = largest(wide, by_sample)[..., None] / (FP4[-1] * LARGEST_FP8)
        blocks = F.pad(wide, (0, -wide.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
        scale = e4m3((blocks.abs().amax(-1, keepdim=True) / FP4[-1] / whole).clamp(SMALLEST_FP8, LARGEST_FP8)) * whole
        return (e2m1(blocks / scale) * scale).flatten(-2)[..., : wide.shape[-1]].to(values.dtype)


def e4m3(values: Tensor) -> Tensor:
    """The nearest numbers of E4M3, fp32; beyond the largest it is the largest."""
    return values.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn).float()


def e2m1(values: Tensor) -> Tensor:
    """The nearest numbers of E2M1, of two equally near ones that with the even last bit, fp32; beyond 6 it is 6."""
    grid = torch.tensor(FP4, device=values.device)
    middles = 0.5 * (grid[1:] + grid[:-1])
    middles[1::2] = torch.nextafter(middles[1::2], torch.zeros_like(middles[1::2]))  # these round up, to even
    return grid[torch.bucketize(values.abs(), middles)].copysign(values)
