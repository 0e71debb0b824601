"""AllTrue: where values would choose rows, all of them are taken, for tensors that have no values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class AllTrue(TorchDispatchMode):
    """Inside, masks choose every element: prompts are as long as they may be, and all rows go on.

    So a plan is an upper bound where a run would compute fewer rows.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.nonzero.default and args[0].ndim == 1:
            return torch.arange(len(args[0]), device=args[0].device)[:, None]
        if func is torch.ops.aten.index.Tensor and len(args[1]) == 1 and is_mask(args[1][0]):
            value, (mask,) = args
            return value.flatten(0, mask.ndim - 1).clone()
        return func(*args, **(kwargs or {}))


def is_mask(index: Any) -> bool:
    """Whether an index says of every element if it is taken."""
    return isinstance(index, Tensor) and index.dtype == torch.bool
