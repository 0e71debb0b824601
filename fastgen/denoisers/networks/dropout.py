"""Dropout whose masks are a function of the generator alone, also for a part of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


class Dropout(nn.Module):
    """As ``nn.Dropout``, but the mask is drawn in the order of the indices, not of the memory.

    Forward-mode differentiation may lay activations out differently (seen with channels-last maps on the CPU), and
    ``nn.Dropout`` then draws another mask from the same generator state. Flow maps need the same one in both passes,
    also where one of them sees a part of the batch: see :func:`masks_of`.

    Args:
        p: Probability of a zero.
    """

    rows: tuple[Tensor, int] | None = None
    """Which samples of a batch of how many are seen; ``None`` is all of them."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with elements set to zero, the others divided by ``1 - p``; ``x`` itself in eval mode."""
        if not self.training or self.p == 0.0:
            return x
        count = len(x) if self.rows is None else self.rows[1]
        keep = torch.empty(count, *x.shape[1:], dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.p)
        if self.rows is not None:
            keep = keep[self.rows[0]]
        return x * (keep / (1.0 - self.p))


@contextmanager
def masks_of(network: nn.Module, rows: Tensor, count: int) -> Iterator[None]:
    """Inside, ``network`` sees the samples ``rows`` of a batch of ``count``, with the masks that they have in it."""
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    for layer in layers:
        layer.rows = rows, count
    try:
        yield
    finally:
        for layer in layers:
            layer.rows = None


def foreign_dropout(network: nn.Module) -> bool:
    """Whether torch's own dropout is at work in ``network``, whose masks depend on the batch."""
    return any(isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in network.modules())
