"""LastMean: what some samples of the last update were on average."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgen.precision import KeepsPrecision


class LastMean(KeepsPrecision, nn.Module):
    """The mean over the chosen samples of all pieces and ranks of the last update; 1 before there was one.

    Taken within an update it would depend on how a batch is cut. It is part of the method's checkpoints.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones((), dtype=torch.float64))
        self.sums: Tensor | None = None

    def begin(self) -> None:
        """Forget what a former update left."""
        self.sums = None

    def see(self, values: Tensor, chosen: Tensor) -> None:
        """Add the chosen of ``values`` (B,); nothing in validation."""
        if torch.is_grad_enabled():
            found = torch.stack([torch.where(chosen, values.double(), 0.0).sum(), chosen.double().sum()])
            self.sums = found if self.sums is None else self.sums + found

    @torch.no_grad()
    def settle(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the mean of what was seen, if there was any; ``total`` adds up ranks."""
        if self.sums is None:
            return
        value, count = total(self.sums)
        if count > 0:
            self.mean.copy_(value / count)
        self.begin()
