"""Sets of metrics that share their work, as a config names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.metrics.accuracy import ClassAccuracy
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.features import FeatureExtractor, state_digest
from fastgen.metrics.frechet import FrechetDistance, FrechetRatio
from fastgen.metrics.images import to_uint8
from fastgen.metrics.kernel import KernelDistance
from fastgen.metrics.mixture import LawKernelDistance, LawLikelihood, ModeCoverage, WassersteinDistance
from fastgen.metrics.precision_recall import PrecisionRecall


class ImageMetrics(MetricSuite):
    """Fréchet and kernel distance, precision and recall, and the accuracy of labels, from one forward pass per image.

    Numbers: ``frechet`` (all samples against the whole reference), ``frechet_over_floor``, ``frechet_floor``,
    ``frechet_to_half``, ``frechet_half_count`` (see ``FrechetRatio``), ``kid``, ``precision``, ``recall``, ``density``,
    ``coverage``, ``accuracy`` (if the extractor is a classifier and samples have labels), ``count`` and
    ``reference_count``. ``frechet`` shrinks as counts grow: compare it at equal counts, or take the ratio or the KID.

    Args:
        extractor: Network whose features are compared, e.g. ``DigitsClassifier``.
        neighbours: k of precision and recall.
        floor_splits: Random halvings of the reference for the ratio to the floor.
        batch_size: Images per forward pass of the extractor.
    """

    def __init__(
        self, extractor: FeatureExtractor, neighbours: int = 5, floor_splits: int = 4, batch_size: int = 256
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.batch_size = batch_size
        dimension = extractor.num_features
        self._frechet = FrechetDistance(dimension)
        self._accuracy = ClassAccuracy()
        self._on_features: dict[str, SampleMetric] = {
            "frechet": self._frechet,
            "ratio": FrechetRatio(dimension, floor_splits),
            "kernel": KernelDistance(dimension),
            "precision_recall": PrecisionRecall(dimension, neighbours),
        }

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""
        return {**self._on_features, "accuracy": self._accuracy}

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Compare with images, uint8 or in [-1, 1]."""
        if reference is None:
            raise UserError(
                "The data module has no real images to compare with; give another data module, or remove the metrics."
            )
        images = reference["samples"]
        features = torch.cat([self.extractor(to_uint8(part)) for part in images.split(self.batch_size)])
        for metric in self._on_features.values():
            metric.set_reference(features, reference.get("label"))

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in images (B, C, H, W)."""
        for start in range(0, len(samples), self.batch_size):
            rows = slice(start, start + self.batch_size)
            part_label = None if label is None else label[rows].to(self.device)
            features = self.extractor(to_uint8(samples[rows]))
            for metric in self._on_features.values():
                metric.update(features, part_label)
            logits = self.extractor.logits(features)
            if logits is None:
                logits, part_label = features, None  # no classifier: nothing is counted
            self._accuracy.update(logits, part_label)

    def to(self, device: torch.device | str) -> ImageMetrics:
        """Work on ``device``."""
        super().to(device)
        self.extractor.to(device)
        return self

    def fingerprint(self) -> str:
        """The extractor's."""
        return self.extractor.fingerprint()


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
