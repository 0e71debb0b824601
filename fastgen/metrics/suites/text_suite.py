"""The suite for samples with prompts: scores, diversity and alignment to the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.samples.picture_metric import PictureMetric, Pictures
from fastgen.pictures.pixels import to_uint8


class TextImageMetrics(MetricSuite):
    """Scores of images and prompts, beside them how different the images are, and how close to the teacher's.

    ``metrics`` takes any ``PictureMetric``, yours too: the scores ``CLIPScore``, ``HPSv2``, ``PickScore`` and
    ``AestheticScore``, each a fidelity number with its ``_diversity``; ``PairwiseLPIPS`` between samples of one prompt
    or label, which the evaluation has to repeat; ``TeacherAlignment`` with the teacher's samples of equal noise.

    Args:
        metrics: What to measure; see each class for its numbers and settings.
        batch_size: Images per call of a network.
    """

    def __init__(self, metrics: list[PictureMetric], batch_size: int = 64) -> None:
        checks.whole(self, batch_size=batch_size)
        super().__init__()
        self._members: dict[str, PictureMetric] = {}
        for metric in metrics:
            if (name := next(iter(metric.numbers))) in self._members:
                raise UserError(
                    f"TextImageMetrics have two metrics that give '{name}'; put the second into another Evaluate."
                )
            self._members[name] = metric
        if not any(metric.shows("fidelity") or metric.shows("coverage") for metric in metrics):
            raise UserError(
                "TextImageMetrics need a score or PairwiseLPIPS in 'metrics'; alignment alone does not see a collapse."
            )
        self.batch_size = batch_size
        self._teacher: dict[int, Tensor] = {}

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members by their first number."""
        return self._members

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Nothing to do: prompts are the reference."""

    @property
    def wants_teacher(self) -> int:
        """The most that any metric compares."""
        return max(metric.wants_teacher for metric in self._members.values())

    def remember_teacher(self, samples: Tensor, seeds: Sequence[int]) -> None:
        """Keep the teacher's samples (B, C, H, W) from ``seeds`` for the alignment; ``reset`` keeps them too.

        Every rank must be given all of them: which rank makes which of the student's samples may change when an
        evaluation goes on after a stop.
        """
        if self.wants_teacher:
            self._teacher |= dict(zip(map(int, seeds), to_uint8(samples).cpu(), strict=True))

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in images (B, 3, H, W) that no prompts are known for."""
        self._take_in(Pictures(to_uint8(samples), label=label))

    def observe(self, samples: Tensor, condition: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Take in a batch of decoded samples.

        Args:
            samples: Images (B, 3, H, W) in [-1, 1] or uint8.
            condition: What they should show: ``prompt`` (B texts) where a score needs it, ``label`` (B,), and if there
                are ``style`` (B names).
            seeds: What they were made from, B numbers, no two alike.

        Raises:
            UserError: If a score needs prompts and gets none.
        """
        prompt, label, style = (condition.get(name) for name in ("prompt", "label", "style"))
        self._take_in(Pictures(to_uint8(samples), prompt, label, style, list(map(int, seeds)), self._teacher))

    def _take_in(self, batch: Pictures) -> None:
        needy = [name for name, metric in self._members.items() if metric.needs_prompts]
        if batch.prompt is None and needy:
            raise UserError(
                f"The scores {', '.join(needy)} need prompts and the data module has none; evaluate with a data module "
                "that has prompts or remove these scores."
            )
        for metric in self._members.values():
            for part in batch.split(self.batch_size) if metric.in_parts else [batch]:
                metric.observe(part)

    def fingerprint(self) -> str:
        """Those of the members."""
        return "+".join(metric.fingerprint() for metric in self._members.values())
