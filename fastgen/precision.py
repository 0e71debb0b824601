"""What the precision of the trainer leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
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


@contextmanager
def built_in_fp32() -> Iterator[None]:
    """Inside, new weights are fp32, whatever the trainer's precision made torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
