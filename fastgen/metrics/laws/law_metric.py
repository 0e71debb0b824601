"""What a metric of points of a known law is: its settings, what its numbers measure, and the function behind them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastgen.configuration.components import Component
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.samples.collecting import CollectingMetric
from fastgen.results.kinds import Kinds


@dataclass(frozen=True)
class LawMetric(Component, ABC):
    """An exact metric of points, by class path in ``MixtureMetrics.metrics``.

    Subclasses are frozen dataclasses of their settings. They override ``numbers`` and :meth:`measure`, or
    :meth:`build` if sums are enough. A law is a denoiser of ``fastgen.denoisers`` that knows its density.
    """

    @property
    @abstractmethod
    def numbers(self) -> Kinds:
        """The numbers that the metric may give, and what each measures; a class attribute in subclasses."""

    def measure(self, law: Any, samples: Tensor, label: Tensor | None) -> dict[str, float]:
        """The numbers.

        Args:
            law: The law.
            samples: All samples of all ranks (N, D), fp64.
            label: Their classes (N,), ``None`` without.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither measure nor build")

    def build(self, law: Any) -> SampleMetric:
        """What takes in points (B, ...) batch by batch and says the numbers at the end."""
        return CollectedPoints(self, law)


class CollectedPoints(CollectingMetric):
    """All samples, for a metric that needs them at once.

    Args:
        metric: Makes the numbers.
        law: The law; kept out of the state dict.
    """

    def __init__(self, metric: LawMetric, law: Any) -> None:
        super().__init__(math.prod(law.sample_shape), type(metric).__name__)
        self.metric = metric
        self._law = (law,)

    def compute(self) -> dict[str, float]:
        """The metric's numbers."""
        return self.metric.measure(self._law[0], *self.collected())
