"""GradientBalance: two losses that pull equally hard at a network's last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from fastgen.precision import KeepsPrecision

ADDED = ("second_time", "guidance_input")
"""Inputs that networks got later; their layers stand behind the last one."""


def last_layer(network: nn.Module) -> nn.Parameter:
    """The last trained weight of a network that is no vector; the last trained parameter, if all are."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    own = [p for name, p in named if not any(part in name for part in ADDED)] or [p for _, p in named]
    return cast(nn.Parameter, next((p for p in reversed(own) if p.ndim > 1), own[-1]))


class GradientBalance(KeepsPrecision, nn.Module):
    """``|d first| / |d second|`` at a layer, over all pieces and ranks of an update; used from the next update on.

    VQGAN's adaptive weight (Esser et al. 2020, arXiv 2012.09841), as in CTM and AYF. Taken within an update it would
    depend on how a batch is cut. It is part of the method's checkpoints, and 1 at first.

    Args:
        most: Its largest value.
        least: Its smallest.
    """

    ratio: Tensor

    def __init__(self, most: float = 1e4, least: float = 0.0) -> None:
        super().__init__()
        self.most, self.least = most, least
        self.register_buffer("ratio", torch.ones((), dtype=torch.float64))
        self.sums: list[Tensor] = []

    def begin(self) -> None:
        """Forget what a former update left."""
        self.sums = []

    def see(self, first: Tensor, second: Tensor, layer: nn.Parameter) -> None:
        """Add the gradients of the two losses of a piece at ``layer``; nothing without a graph."""
        if not torch.is_grad_enabled():
            return
        found = [torch.autograd.grad(loss, layer, retain_graph=True, allow_unused=True)[0] for loss in (first, second)]
        slopes = [torch.zeros_like(layer) if slope is None else slope.detach() for slope in found]
        self.sums = [a + b for a, b in zip(self.sums, slopes, strict=True)] if self.sums else slopes

    @torch.no_grad()
    def settle(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Take the ratio of what was seen; ``mean`` is over ranks."""
        if not self.sums:
            return
        one, other = (torch.linalg.vector_norm(mean(total).double()) for total in self.sums)
        self.ratio.copy_((one / other.clamp(min=1e-12)).clamp(self.least, self.most))
        self.begin()
