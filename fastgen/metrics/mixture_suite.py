"""The suite for points of a known law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.metrics.accuracy import ClassAccuracy
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.features import state_digest
from fastgen.metrics.mixture import LawKernelDistance, LawLikelihood, ModeCoverage, WassersteinDistance


class MixtureMetrics(MetricSuite):
    """Exact distances to a known law.

    Numbers: ``wasserstein2``, ``wasserstein2_floor``, ``sliced_wasserstein2``, ``mmd2``, ``nll``, ``mode_coverage``,
    ``modes_found``, ``mode_kl``, ``high_quality``, ``accuracy`` (if the law has classes and samples have labels) and
    ``count``. The reference is the law itself: every rank draws the same fresh samples of it.

    Args:
        distribution: The law, a mixture such as ``RingMixture``.
        exact_count: Largest number of samples for the exact transport distance.
        radius: How many standard deviations from its mode a good sample is at most.
        found_share: Part of its expected number of good samples that makes a mode count as found.
    """

    def __init__(
        self,
        distribution: Callable[[], Denoiser],
        exact_count: int = 1000,
        radius: float = 3.0,
        found_share: float = 0.2,
    ) -> None:
        checks.whole(self, exact_count=exact_count)
        checks.positive(self, radius=radius)
        checks.between(self, 0.0, 1.0, "(]", found_share=found_share)
        super().__init__()
        law: Any = distribution()
        if not hasattr(law, "responsibilities") or bool((law.variances <= 0).any()):
            raise UserError(
                f"MixtureMetrics measure a mixture with positive standard deviations, not {type(law).__name__}; "
                "give one such as RingMixture."
            )
        self.law = law
        self._accuracy = ClassAccuracy()
        self._on_samples: dict[str, SampleMetric] = {
            "transport": WassersteinDistance(law, exact_count),
            "kernel": LawKernelDistance(law),
            "likelihood": LawLikelihood(law),
            "modes": ModeCoverage(law, radius, found_share),
        }

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""
        return {**self._on_samples, "accuracy": self._accuracy}

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Nothing to do: the law is the reference."""

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in samples (B, ...) in the law's space."""
        if samples.shape[1:] != self.law.sample_shape:
            raise UserError(
                f"MixtureMetrics expect samples of shape {self.law.sample_shape}, got {tuple(samples.shape[1:])}; "
                "give the metrics the law of the data."
            )
        samples = samples.to(self.device)
        label = None if label is None or self.law.num_classes == 0 else label.to(self.device)
        for metric in self._on_samples.values():
            metric.update(samples, label)
        of_class = self.law.responsibilities(samples)
        if label is not None:
            by_class = of_class.new_zeros(len(samples), self.law.num_classes)
            of_class = by_class.index_add(1, self.law.classes, of_class)
        self._accuracy.update(of_class, label)

    def to(self, device: torch.device | str) -> MixtureMetrics:
        """Work on ``device``."""
        super().to(device)
        self.law.to(device)
        return self

    def fingerprint(self) -> str:
        """Name and parameters of the law."""
        return f"{type(self.law).__name__}/sha256:{state_digest(self.law)[:16]}"
