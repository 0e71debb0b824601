"""The suite for images: metrics that share one forward pass of an extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite, SampleMetric, members
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.metrics.samples.accuracy import ClassAccuracy
from fastgen.metrics.samples.collecting import CollectingMetric
from fastgen.metrics.samples.feature_metric import FeatureMetric
from fastgen.metrics.samples.frechet import FrechetDistance, FrechetRatio, FrechetSums
from fastgen.metrics.samples.kernel import KernelDistance
from fastgen.metrics.samples.precision_recall import PrecisionRecall
from fastgen.metrics.samples.reference import Reference, read_reference
from fastgen.pictures.pixels import to_uint8
from fastgen.results.kinds import Kinds

DEFAULT: tuple[FeatureMetric, ...] = (
    FrechetDistance(),
    FrechetRatio(),
    KernelDistance(),
    PrecisionRecall(),
    ClassAccuracy(),
)

COUNTS = ("count", "reference_count")
"""Numbers that are named alike in every suite."""


class ImageMetrics(MetricSuite):
    """Numbers about the features of images, from one forward pass per image.

    ``metrics`` takes any ``FeatureMetric``, yours too: ``FrechetDistance`` (all samples against the whole reference; it
    shrinks as counts grow, so compare it at equal counts), ``FrechetRatio`` (the same over that of real images against
    real ones), ``KernelDistance`` (KID), ``CMMD``, ``PrecisionRecall``, ``DuplicateRate``; without a reference
    ``ClassAccuracy`` and ``InceptionScore`` (of extractors that are classifiers) and ``VendiScore``.

    What compares with the teacher's samples is called ``<name>_to_teacher``, e.g. ``frechet_to_teacher``.

    Args:
        extractor: Network whose features are compared, e.g. ``DigitsClassifier``.
        metrics: What to measure; see each class for its numbers and settings.
        reference: File of ``fastgen stats`` or EDM ``.npz`` to compare with, or e.g.
            ``clean-fid:cifar10_clean_train_32``, instead of the data module's images. Without the features of single
            images in it, of what compares only ``FrechetDistance`` can be measured.
        reference_count: Number of images that the reference file must stand for.
        prefix: Put before the names of all numbers, e.g. ``patch_``.
        batch_size: Images per forward pass of the extractor.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: Sequence[FeatureMetric] = DEFAULT,
        reference: str | None = None,
        reference_count: int | None = None,
        prefix: str = "",
        batch_size: int = 256,
    ) -> None:
        checks.whole(self, batch_size=batch_size)
        checks.whole(self, 2, reference_count=reference_count)
        super().__init__()
        self.extractor = extractor
        self.components = tuple(metrics)
        self.reference = reference
        self.reference_count = reference_count
        self.prefix = prefix
        self.batch_size = batch_size
        self._members = members(self, self.components, lambda metric: metric.build(extractor))

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""
        return self._members

    def collecting(self) -> list[CollectingMetric]:
        """The members that keep all features; they keep the same ones."""
        return [metric for metric in self._members.values() if isinstance(metric, CollectingMetric)]

    def load(self) -> None:
        """Read the network and the reference."""
        self.extractor.load()
        for metric in self.components:
            metric.check(self.extractor)
        if self.reference is not None and not self.reference_name:
            self._compare_with(read_reference(self.reference))

    @property
    def needs_reference(self) -> bool:
        """Whether the data module (or the teacher) must give images: not if there is a file."""
        return self.reference is None and super().needs_reference

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Compare with the file, or else with images, uint8 or in [-1, 1]."""
        self.load()
        if self.reference is not None:
            return
        if reference is not None:
            images = reference["samples"]
            features = torch.cat([self.extractor(to_uint8(part)) for part in images.split(self.batch_size)])
            for metric in self._members.values():
                metric.set_reference(features, reference.get("label"))
            self.reference_name = "data"
        elif self.needs_reference:
            raise UserError(
                "The data module has no real images to compare with; give another data module, or remove the metrics."
            )

    def _compare_with(self, reference: Reference) -> None:
        reference.check(self.extractor.num_features, self.fingerprint(), self.reference_count)
        if reference.features is None:
            needy = [n for n, m in self._members.items() if m.needs_reference and not isinstance(m, FrechetSums)]
            if needy:
                raise UserError(
                    f"{', '.join(needy)} need the features of single images, and the reference {reference.name} has "
                    "none; write one with 'fastgen stats --features', or measure FrechetDistance and VendiScore."
                )
        for metric in self._members.values():
            if isinstance(metric, FrechetSums):
                metric.set_moments(reference.mean, reference.cov, reference.count)
            elif metric.needs_reference:
                assert reference.features is not None
                metric.set_reference(reference.features.to(self.device), reference.label)
        self.reference_name = reference.name

    def refer_to_teacher(self) -> None:
        """Compare with what was taken in since the last reset."""
        if collecting := self.collecting():
            features, label = collecting[0].gathered()
            for metric in self._members.values():
                metric.set_reference(features, label)
        else:
            for metric in self._members.values():
                if metric.needs_reference:
                    metric.refer_to_own_samples()
        self.reference_name = "teacher"
        self.reset()

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in images (B, C, H, W)."""
        for start in range(0, len(samples), self.batch_size):
            rows = slice(start, start + self.batch_size)
            part_label = None if label is None else label[rows].to(self.device)
            self.take_in(self.extractor(to_uint8(samples[rows])), part_label)

    def take_in(self, features: Tensor, label: Tensor | None = None) -> None:
        """Take in features (B, D)."""
        for metric in self._members.values():
            metric.update(features, label)

    def named(self, name: str, metric: SampleMetric) -> str:
        """What a metric's number is called, in this suite and compared with this reference."""
        if name in COUNTS:
            return name
        compared = metric.needs_reference and self.reference_name == "teacher"
        return self.prefix + name + "_to_teacher" * (compared and not name.endswith("count"))

    def kinds(self) -> Kinds:
        """What each number measures."""
        return {self.named(n, metric): kind for metric in self._members.values() for n, kind in metric.numbers.items()}

    def compute(self) -> dict[str, float]:
        """All numbers over all ranks."""
        numbers: dict[str, float] = {}
        for metric in self._members.values():
            for name, value in metric.compute().items():
                if name != "reference_count" or value > 0:  # 0: the file does not say
                    numbers[self.named(name, metric)] = value
        return numbers

    def partial_state(self) -> dict[str, Tensor]:
        """What was taken in; the features once, however many metrics keep them."""
        collecting = [name for name, metric in self._members.items() if isinstance(metric, CollectingMetric)]
        repeated = tuple(f"{name}." for name in collecting[1:])
        return {name: value for name, value in super().partial_state().items() if not name.startswith(repeated)}

    def add_partial_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as if ``state`` had been taken in."""
        super().add_partial_state(state)
        collecting = self.collecting()
        for other in collecting[1:]:
            other.share(collecting[0])

    def to(self, device: torch.device | str) -> ImageMetrics:
        """Work on ``device``."""
        super().to(device)
        self.extractor.to(device)
        return self

    def fingerprint(self) -> str:
        """The extractor's."""
        return self.extractor.fingerprint()
