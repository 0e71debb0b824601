"""The suite for pictures with captions: what a judge sees, beside the distances of its features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from fastgen.errors import UserError
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.judge.base import CaptionJudge
from fastgen.metrics.judge.captions import (
    AttributeAccuracy,
    Captioned,
    CaptionMetric,
    CaptionRetrieval,
    UnsaidDiversity,
)
from fastgen.metrics.samples.feature_metric import FeatureMetric
from fastgen.metrics.samples.frechet import FrechetDistance, FrechetRatio
from fastgen.metrics.samples.kernel import KernelDistance
from fastgen.metrics.samples.precision_recall import PrecisionRecall
from fastgen.metrics.suites.image_suite import COUNTS, ImageMetrics
from fastgen.pictures.pixels import to_uint8
from fastgen.results.kinds import Kinds

FEATURES: tuple[FeatureMetric, ...] = (FrechetDistance(), FrechetRatio(), KernelDistance(), PrecisionRecall())
CAPTIONS: tuple[CaptionMetric, ...] = (CaptionRetrieval(), AttributeAccuracy(), UnsaidDiversity())


def identity(text: str) -> int:
    """A number of a text, equal for equal texts alone, that fits into int64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class CaptionedPictures(SampleMetric):
    """All pictures with captions as the judge sees them, for metrics that need them at once.

    Args:
        metrics: Make the numbers.
        judge: Sees.
    """

    needs_prompts = True
    pictures: list[Tensor] | Tensor
    texts: list[Tensor] | Tensor
    facts: list[Tensor] | Tensor

    def __init__(self, metrics: Sequence[CaptionMetric], judge: CaptionJudge) -> None:
        super().__init__()
        self.measures = tuple(metrics)
        self.numbers = {name: kind for metric in metrics for name, kind in metric.numbers.items()}
        self._judge = (judge,)  # in a tuple: a network is no part of this module
        for name in ("pictures", "texts", "facts"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, prompts: Sequence[str], said: Sequence[Mapping[str, str]] | None) -> None:
        """Add pictures.

        Args:
            features: Of the pictures, (N, F).
            prompts: Their captions.
            said: What those say by attribute, ``None`` if nobody knows.
        """
        judge = self._judge[0]
        numbers = judge.numbers([{}] * len(features) if said is None else said)
        of_caption = torch.tensor([[identity(prompt)] for prompt in prompts], dtype=torch.int64)
        seen = judge.seen(features)
        self.pictures = [*self.pictures, judge.embed(features).to(self.device)]
        self.texts = [*self.texts, judge.texts(prompts).to(self.device)]
        facts = torch.cat([of_caption.to(seen.device), numbers.to(seen.device), seen], dim=1)
        self.facts = [*self.facts, facts.to(self.device)]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, but a rank that saw no picture takes part with tensors of no rows."""
        if isinstance(self.facts, list) and not self.facts:
            judge = self._judge[0]
            none = judge.embed(torch.empty(0, judge.num_features, device=judge.device)).to(self.device)
            columns = 1 + 2 * len(judge.classes)
            self.pictures, self.texts = [none], [none]
            self.facts = [torch.empty(0, columns, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """The numbers of all metrics.

        Raises:
            UserError: If there is no picture.
        """
        parts = [self.facts] if isinstance(self.facts, Tensor) else self.facts  # one tensor after a sync
        if not sum(map(len, parts)):
            raise UserError("EmojiMetrics have seen no picture; raise the number of samples.")
        pictures, texts, facts = (dim_zero_cat(state) for state in (self.pictures, self.texts, self.facts))
        names = tuple(self._judge[0].classes)
        caption, said, seen = facts[:, 0], facts[:, 1 : 1 + len(names)], facts[:, 1 + len(names) :]
        samples = Captioned(pictures.double(), texts.double(), caption, said, seen, names)
        return {name: value for metric in self.measures for name, value in metric.measure(samples).items()}


class EmojiMetrics(ImageMetrics):
    """:class:`ImageMetrics` in the features of a judge, and beside them what it says of pictures and their captions.

    The data module tells what captions say (``Emoji`` does); of one that does not (``Prompts``), retrieval alone is
    measured. What ``Evaluate`` calls the role ``real`` are real pictures of the same captions under the same judge: the
    most that a sampler can get.

    Args:
        judge: Whose features are compared, and who reads captions: ``EmojiJudge``.
        metrics: What to measure of features; see ``ImageMetrics``.
        captions: What to measure of pictures and captions; any ``CaptionMetric``, yours too.
        reference: As of ``ImageMetrics``.
        reference_count: As of ``ImageMetrics``.
        batch_size: Images per forward pass of the judge.
    """

    def __init__(
        self,
        judge: CaptionJudge,
        metrics: Sequence[FeatureMetric] = FEATURES,
        captions: Sequence[CaptionMetric] = CAPTIONS,
        reference: str | None = None,
        reference_count: int | None = None,
        batch_size: int = 256,
    ) -> None:
        super().__init__(judge, metrics, reference, reference_count, batch_size=batch_size)
        if not captions:
            raise UserError("EmojiMetrics have no metric of captions; name one, or take ImageMetrics.")
        self.judge = judge
        self.captions = tuple(captions)
        numbers = [name for metric in metrics for name in metric.numbers]
        numbers += [name for metric in captions for name in metric.numbers]
        if twice := [name for name in numbers if numbers.count(name) > 1 and name not in COUNTS]:
            raise UserError(f"EmojiMetrics have two metrics that give '{twice[0]}'; remove one.")
        self._captioned = CaptionedPictures(self.captions, judge)

    def metrics(self) -> Mapping[str, SampleMetric]:
        """Those of features, and that of captions."""
        return {**super().metrics(), "captions": self._captioned}

    def load(self) -> None:
        """Read the judge and the reference."""
        super().load()
        for metric in self.captions:
            metric.check(self.judge)

    def observe(self, samples: Tensor, condition: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Take in a batch of decoded pictures.

        Args:
            samples: (B, 3, H, W) in [-1, 1] or uint8.
            condition: ``prompt`` (B texts); ``said`` (B mappings) where the data module knows what they say.
            seeds: What they were made from.

        Raises:
            UserError: If there are no prompts.
        """
        prompts, said = condition.get("prompt"), condition.get("said")
        if prompts is None:
            raise UserError("EmojiMetrics need captions; evaluate with a data module that has them, such as Emoji.")
        for start in range(0, len(samples), self.batch_size):
            rows = slice(start, start + self.batch_size)
            features = self.judge(to_uint8(samples[rows]))
            self.take_in(features)
            self._captioned.update(features, prompts[rows], None if said is None else said[rows])

    def kinds(self) -> Kinds:
        """What each number measures."""
        return {**super().kinds(), **self._captioned.numbers}

    def compute(self) -> dict[str, float]:
        """All numbers over all ranks."""
        return {**super().compute(), **self._captioned.compute()}
