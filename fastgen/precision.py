"""Modules that a cast to a lower precision leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class KeepsPrecision(nn.Module):
    """What small steps move: in bf16, of which 0.4 % is the smallest change, neither an average nor Adam moves."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype.itemsize < tensor.dtype.itemsize else moved

        return super()._apply(move, recurse)


class Averages(KeepsPrecision, nn.ModuleDict):
    """Networks by name."""
