"""Samples addressed by number: what data modules are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]
"""``{"index": (B,) int64, "x0": (B, ...) float32, "condition": {"label": (B,) int64} or {"prompt": list} or {}}``.

``index`` is the global sample number in training and the number of the sample in the split elsewhere; methods key their
random numbers by it. ``x0`` is absent in data-free batches.
"""


class BatchSource(ABC):
    """Samples addressed by number; what a data module is made of.

    Attributes:
        size: Number of samples, or ``None`` if there is one for every number (drawn, not stored).
    """

    size: int | None

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples ``indices`` as one batch without ``index``. A pure function of ``indices``."""


class TensorSource(BatchSource):
    """Samples that lie in memory.

    Args:
        x0: (N, ...) float32.
        label: (N,) int64, or ``None``.
    """

    def __init__(self, x0: Tensor, label: Tensor | None = None) -> None:
        self.size = len(x0)
        self.x0 = x0
        self.label = label

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices)
        return {"x0": self.x0[rows], "condition": {} if self.label is None else {"label": self.label[rows]}}
