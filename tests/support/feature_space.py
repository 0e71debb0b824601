"""Features without an extractor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Space:
    """As many features, and what their class scores are."""

    num_features: int
    classify: Callable[[Tensor], Tensor] | None = None
    logits_show_labels: bool = True

    def logits(self, features: Tensor) -> Tensor | None:
        return None if self.classify is None else self.classify(features)
