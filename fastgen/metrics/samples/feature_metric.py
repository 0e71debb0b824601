"""What a metric of features is: its settings, what its numbers measure, and the function that makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fastgen.configuration.components import Component
from fastgen.errors import UserError
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.samples.collecting import CollectingMetric
from fastgen.results.kinds import Kinds


class FeatureSpace(Protocol):
    """Where features come from, as far as metrics ask; every ``FeatureExtractor`` is one.

    Attributes:
        num_features: D.
        logits_show_labels: Whether the classes of :meth:`logits` are the labels of the data.
    """

    num_features: int
    logits_show_labels: bool

    def logits(self, features: Tensor) -> Tensor | None:
        """Class scores (N, K) of features (N, D), ``None`` if there is no classifier."""


@dataclass(frozen=True)
class Features:
    """Features of images.

    Attributes:
        values: (N, D), fp64. Their order depends neither on that of the images nor on the number of ranks.
        label: (N,) int64, ``None`` without labels.
        space: Where they come from.
    """

    values: Tensor
    label: Tensor | None
    space: FeatureSpace = field(repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def logits(self) -> Tensor:
        """Class scores (N, K).

        Raises:
            UserError: If the extractor is no classifier.
        """
        parts = [self.space.logits(part.float()) for part in self.values.split(2048)]
        if any(part is None for part in parts):
            raise UserError(f"{type(self.space).__name__} is no classifier; give another extractor.")
        return torch.cat([part for part in parts if part is not None])


@dataclass(frozen=True)
class FeatureMetric(Component, ABC):
    """A metric of images through the features of an extractor, by class path in ``ImageMetrics.metrics``.

    Subclasses are frozen dataclasses of their settings. They override ``numbers`` and :meth:`measure`; those that need
    no more than sums override :meth:`build` instead, so that features need not be kept.

    Attributes:
        needs_reference: Whether the numbers compare with real images (or with the teacher's).
    """

    needs_reference: ClassVar[bool] = True

    @property
    @abstractmethod
    def numbers(self) -> Kinds:
        """The numbers that the metric may give, and what each measures; a class attribute in subclasses."""

    @property
    def least(self) -> int:
        """Fewest samples that :meth:`measure` can take."""
        return 2

    @property
    def least_reference(self) -> int:
        """Fewest images of a reference."""
        return self.least

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """The numbers.

        Args:
            samples: All samples of all ranks.
            reference: What they are compared with; empty if nothing is needed.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither measure nor build")

    def build(self, space: FeatureSpace) -> SampleMetric:
        """What takes in features (B, D) of ``space`` batch by batch and says the numbers at the end."""
        return CollectedFeatures(self, space)

    def check(self, space: FeatureSpace) -> None:
        """Called before anything is sampled, with the network in memory.

        Raises:
            UserError: If the extractor does not suit the metric.
        """


class CollectedFeatures(CollectingMetric):
    """The features of all samples, for a metric that needs them at once.

    Args:
        metric: Makes the numbers.
        space: Where the features come from.
    """

    def __init__(self, metric: FeatureMetric, space: FeatureSpace) -> None:
        super().__init__(space.num_features, type(metric).__name__)
        self.metric = metric
        self._space = (space,)  # in a tuple: a network is no part of this module

    def compute(self) -> dict[str, float]:
        """The metric's numbers."""
        values, label = self.collected(self.metric.least)
        samples = Features(values, label, self._space[0])
        if not self.metric.needs_reference:
            return self.metric.measure(samples, Features(values[:0], None, self._space[0]))
        real, real_label = self.reference_samples(self.metric.least_reference), self.reference_label
        real_label = None if real_label is None else real_label.to(self.device)
        return self.metric.measure(samples, Features(real, real_label, self._space[0]))
