"""Metrics that need all samples at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from fastgen.errors import UserError
from fastgen.metrics.base import SampleMetric
from fastgen.randomness import generator


class CollectingMetric(SampleMetric):
    """A metric that needs all samples at once, flattened to (N, D).

    Batches are kept as they come: several metrics that are fed the same tensor share its memory.

    Args:
        num_features: D.
        name: What messages call the metric.
    """

    features: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor

    def __init__(self, num_features: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.num_features = num_features
        self.reference: Tensor | None = None
        self.reference_label: Tensor | None = None
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        assert isinstance(self.features, list) and isinstance(self.labels, list)
        self.features.append(samples.detach().flatten(1).to(self.device, torch.float32))
        if label is None:  # a state must exist on all ranks; -1 stands for "no label"
            label = torch.full((len(samples),), -1)
        self.labels.append(label.to(self.device, torch.int64))

    def set_reference(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Compare with ``samples`` (N, ...)."""
        super().set_reference(samples, label)
        self.reference = samples.detach().flatten(1).float()
        self.reference_label = label

    def gathered(self) -> tuple[Tensor, Tensor | None]:
        """The samples of all ranks (N, D) in fp32, as they came, and their labels. Every rank must call it."""
        with self.sync_context(should_sync=self._to_sync):
            samples, label = self.collected()
            return samples.float(), label

    def share(self, other: CollectingMetric) -> None:
        """Take the other's batches as one's own; they lie in memory once."""
        assert isinstance(other.features, list) and isinstance(other.labels, list)
        self.features, self.labels = list(other.features), list(other.labels)
        self._update_count, self._computed = other._update_count, None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, but a rank that saw no sample takes part with an empty tensor of the right width."""
        if isinstance(self.features, list) and not self.features:
            self.features = [torch.empty(0, self.num_features, device=self.device)]
            self.labels = [torch.empty(0, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def collected(self, at_least: int = 2) -> tuple[Tensor, Tensor | None]:
        """All samples (N, D) in fp64 and their labels (N,), in an order of their own.

        The order is that of a fixed random projection, so that whatever is drawn from the samples depends neither on
        the order in which they came nor on the number of ranks.

        Raises:
            UserError: If there are fewer than ``at_least`` samples.
        """
        parts = [self.features] if isinstance(self.features, Tensor) else self.features  # one tensor after a sync
        count = sum(len(part) for part in parts)
        if count < at_least:
            raise UserError(f"{self.name} needs at least {at_least} samples, got {count}; raise their count.")
        samples, labels = dim_zero_cat(self.features).double(), dim_zero_cat(self.labels)
        direction = torch.randn(samples.shape[1], generator=generator("own order"), dtype=samples.dtype)
        order = torch.argsort(samples @ direction.to(samples.device))
        return samples[order], None if bool((labels < 0).any()) else labels[order]

    def reference_samples(self, at_least: int = 2) -> Tensor:
        """The reference (M, D) in fp64 on the metric's device.

        Raises:
            UserError: If there is none, or it has fewer than ``at_least`` samples.
        """
        count = 0 if self.reference is None else len(self.reference)
        if self.reference is None or count < at_least:
            raise UserError(f"{self.name} needs a reference of at least {at_least} samples, got {count}.")
        return self.reference.to(self.device).double()
