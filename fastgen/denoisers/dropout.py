"""Dropout whose mask depends on the generator alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """As ``nn.Dropout``, but the mask is drawn in the order of the indices, not of the memory.

    Forward-mode differentiation may lay activations out differently (seen with channels-last maps on the CPU), and
    ``nn.Dropout`` then draws another mask from the same generator state. Flow maps need the same one in both passes.

    Args:
        p: Probability of a zero.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with elements set to zero, the others divided by ``1 - p``; ``x`` itself in eval mode."""
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.p)
        return x * (keep / (1.0 - self.p))
