"""The suite for images: metrics that share one forward pass of an extractor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.accuracy import ClassAccuracy
from fastgen.metrics.base import CollectingMetric, MetricSuite, SampleMetric
from fastgen.metrics.cmmd import CMMD
from fastgen.metrics.duplicates import DuplicateRate
from fastgen.metrics.features import FeatureExtractor
from fastgen.metrics.frechet import FrechetDistance, FrechetRatio
from fastgen.metrics.images import to_uint8
from fastgen.metrics.inception_score import InceptionScore
from fastgen.metrics.kernel import KernelDistance
from fastgen.metrics.precision_recall import PrecisionRecall
from fastgen.metrics.reference import Reference, read_reference
from fastgen.metrics.vendi import VendiScore

ImageMetric = Literal[
    "frechet", "floor", "kid", "precision_recall", "accuracy", "duplicates", "inception_score", "cmmd", "vendi"
]
"""What :class:`ImageMetrics` can measure."""

DEFAULT: tuple[ImageMetric, ...] = ("frechet", "floor", "kid", "precision_recall", "accuracy")

COUNTS = ("count", "reference_count")
"""Numbers that are named alike in every suite."""


class ImageMetrics(MetricSuite):
    """Numbers about the features of images, from one forward pass per image.

    By name in ``metrics``:

    - ``frechet``: all samples against the whole reference; also ``count`` and ``reference_count``. It shrinks as counts
      grow: compare it at equal counts, or take the ratio or the KID.
    - ``floor``: ``frechet_over_floor``, ``frechet_floor``, ``frechet_to_half``, ``frechet_half_count`` (see
      ``FrechetRatio``).
    - ``kid``, ``cmmd``: unbiased and biased kernel distance (CMMD belongs to CLIP features).
    - ``precision_recall``: ``precision``, ``recall``, ``density``, ``coverage``.
    - ``duplicates``: ``memorised`` and ``repeated`` (see ``DuplicateRate``).
    - ``accuracy``: if the extractor is a classifier of the data's labels and samples have labels.
    - ``inception_score`` and ``inception_score_std``: if the extractor is a classifier; needs no reference.
    - ``vendi``: effective number of different samples; needs no reference.

    What compares with the teacher's samples is called ``<name>_to_teacher``, e.g. ``frechet_to_teacher``.

    Args:
        extractor: Network whose features are compared, e.g. ``DigitsClassifier``.
        metrics: What to measure; default frechet, floor, kid, precision_recall and accuracy.
        reference: File of ``fastgen stats`` or EDM ``.npz`` to compare with, or e.g.
            ``clean-fid:cifar10_clean_train_32``, instead of the data module's images. Without the features of single
            images in it, of what compares only ``frechet`` can be measured.
        reference_count: Number of images that the reference file must stand for.
        neighbours: k of precision and recall.
        floor_splits: Random halvings of the reference for the ratio to the floor.
        score_splits: Parts of the inception score.
        prefix: Put before the names of all numbers, e.g. ``patch_``.
        batch_size: Images per forward pass of the extractor.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: list[ImageMetric] | None = None,
        reference: str | None = None,
        reference_count: int | None = None,
        neighbours: int = 5,
        floor_splits: int = 4,
        score_splits: int = 10,
        prefix: str = "",
        batch_size: int = 256,
    ) -> None:
        checks.whole(
            self, neighbours=neighbours, floor_splits=floor_splits, score_splits=score_splits, batch_size=batch_size
        )
        checks.whole(self, 2, reference_count=reference_count)
        super().__init__()
        self.extractor = extractor
        self.chosen = metrics
        self.reference = reference
        self.reference_count = reference_count
        self.prefix = prefix
        self.batch_size = batch_size
        dimension = extractor.num_features
        makers: dict[ImageMetric, Callable[[], SampleMetric]] = {
            "frechet": lambda: FrechetDistance(dimension),
            "floor": lambda: FrechetRatio(dimension, floor_splits),
            "kid": lambda: KernelDistance(dimension),
            "precision_recall": lambda: PrecisionRecall(dimension, neighbours),
            "duplicates": lambda: DuplicateRate(dimension),
            "cmmd": lambda: CMMD(dimension),
            "inception_score": lambda: InceptionScore(dimension, self.scores, score_splits),
            "vendi": lambda: VendiScore(dimension),
        }
        names = DEFAULT if metrics is None else metrics
        if unknown := [name for name in names if name != "accuracy" and name not in makers]:
            raise UserError(
                f"ImageMetrics cannot measure '{unknown[0]}'; choose from {', '.join([*makers, 'accuracy'])}."
            )
        if not names:
            raise UserError("ImageMetrics have no metrics; name at least one, or remove the suite.")
        self._on_features = {name: makers[name]() for name in dict.fromkeys(names) if name != "accuracy"}
        self._accuracy = ClassAccuracy() if "accuracy" in names else None

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""
        return self._on_features | ({} if self._accuracy is None else {"accuracy": self._accuracy})

    def collecting(self) -> list[CollectingMetric]:
        """The members that keep all features; they keep the same ones."""
        return [metric for metric in self._on_features.values() if isinstance(metric, CollectingMetric)]

    def scores(self, features: Tensor) -> Tensor:
        """Logits of features (N, D).

        Raises:
            UserError: If the extractor is no classifier.
        """
        logits = self.extractor.logits(features)
        if logits is None:
            raise UserError(
                f"The inception score needs a classifier, and {type(self.extractor).__name__} is none; give another "
                "extractor, or remove inception_score."
            )
        return logits

    def load(self) -> None:
        """Read the network and the reference."""
        self.extractor.load()
        if "inception_score" in self._on_features:
            self.scores(torch.zeros(1, self.extractor.num_features, device=self.device))
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
            for metric in self._on_features.values():
                metric.set_reference(features, reference.get("label"))
            self.reference_name = "data"
        elif self.needs_reference:
            raise UserError(
                "The data module has no real images to compare with; give another data module, or remove the metrics."
            )

    def _compare_with(self, reference: Reference) -> None:
        reference.check(self.extractor.num_features, self.fingerprint(), self.reference_count)
        if reference.features is None:
            needy = [name for name, metric in self._on_features.items() if name != "frechet" and metric.needs_reference]
            if needy and self.chosen is not None:
                raise UserError(
                    f"{', '.join(needy)} need the features of single images, and the reference {reference.name} has "
                    "none; write one with 'fastgen stats --features', or remove them from metrics."
                )
            for name in needy:
                del self._on_features[name]
        for metric in self._on_features.values():
            if isinstance(metric, FrechetDistance):
                metric.set_moments(reference.mean, reference.cov, reference.count)
            elif metric.needs_reference:
                assert reference.features is not None
                metric.set_reference(reference.features.to(self.device), reference.label)
        self.reference_name = reference.name

    def refer_to_teacher(self) -> None:
        """Compare with what was taken in since the last reset."""
        if collecting := self.collecting():
            features, label = collecting[0].gathered()
            for metric in self._on_features.values():
                metric.set_reference(features, label)
        elif isinstance(frechet := self._on_features.get("frechet"), FrechetDistance):
            frechet.set_moments(*frechet.gathered())
        self.reference_name = "teacher"
        self.reset()

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in images (B, C, H, W)."""
        for start in range(0, len(samples), self.batch_size):
            rows = slice(start, start + self.batch_size)
            part_label = None if label is None else label[rows].to(self.device)
            features = self.extractor(to_uint8(samples[rows]))
            for metric in self._on_features.values():
                metric.update(features, part_label)
            if self._accuracy is not None:
                logits = self.extractor.logits(features) if self.extractor.logits_show_labels else None
                # Of a network that does not know the labels nothing is counted.
                self._accuracy.update(features if logits is None else logits, None if logits is None else part_label)

    def compute(self) -> dict[str, float]:
        """All numbers over all ranks."""
        numbers: dict[str, float] = {}
        for metric in self.metrics().values():
            compared = metric.needs_reference and self.reference_name == "teacher"
            for name, value in metric.compute().items():
                if name not in COUNTS:
                    name = self.prefix + name + "_to_teacher" * (compared and not name.endswith("count"))
                elif name == "reference_count" and value == 0:
                    continue  # the file does not say
                numbers[name] = value
        return numbers

    def partial_state(self) -> dict[str, Tensor]:
        """What was taken in; the features once, however many metrics keep them."""
        collecting = [name for name, metric in self._on_features.items() if isinstance(metric, CollectingMetric)]
        repeated = set(collecting[1:])
        return {name: value for name, value in super().partial_state().items() if name.split(".")[0] not in repeated}

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
