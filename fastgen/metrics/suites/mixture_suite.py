"""The suite for points of a known law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite, SampleMetric, members
from fastgen.metrics.extractors.features import state_digest
from fastgen.metrics.laws.law_metric import LawMetric
from fastgen.metrics.laws.mixture import (
    LawAccuracy,
    LawKernelDistance,
    LawLikelihood,
    ModeCoverage,
    WassersteinDistance,
)

DEFAULT: tuple[LawMetric, ...] = (
    WassersteinDistance(),
    LawKernelDistance(),
    LawLikelihood(),
    ModeCoverage(),
    LawAccuracy(),
)


class MixtureMetrics(MetricSuite):
    """Exact distances to a known law, which is the reference: every rank draws the same fresh samples of it.

    Args:
        distribution: The law, a mixture such as ``RingMixture``.
        metrics: What to measure; see each class for its numbers.
    """

    def __init__(self, distribution: Callable[[], Denoiser], metrics: Sequence[LawMetric] = DEFAULT) -> None:
        super().__init__()
        law: Any = distribution()
        if not hasattr(law, "responsibilities") or bool((law.variances <= 0).any()):
            raise UserError(
                f"MixtureMetrics measure a mixture with positive standard deviations, not {type(law).__name__}; "
                "give one such as RingMixture."
            )
        self.law = law
        self._members = members(self, metrics, lambda metric: metric.build(law))

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""
        return self._members

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Nothing to do: the law is the reference."""

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in samples (B, ...) in the law's space."""
        self.refuse_other_shapes(samples)
        samples = samples.to(self.device)
        label = None if label is None or self.law.num_classes == 0 else label.to(self.device)
        for metric in self._members.values():
            metric.update(samples, label)

    def refuse_other_shapes(self, samples: Tensor) -> None:
        """Raise a ``UserError`` for samples that are not the law's."""
        if samples.shape[1:] != self.law.sample_shape:
            raise UserError(
                f"{type(self).__name__} expect samples of shape {self.law.sample_shape}, got "
                f"{tuple(samples.shape[1:])}; give the metrics the law of the data."
            )

    def to(self, device: torch.device | str) -> MixtureMetrics:
        """Work on ``device``."""
        super().to(device)
        self.law.to(device)
        return self

    def fingerprint(self) -> str:
        """Name and parameters of the law."""
        return f"{type(self.law).__name__}/sha256:{state_digest(self.law)[:16]}"
