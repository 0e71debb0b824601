"""The suite for samples with prompts: scores, diversity and alignment to the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.images import to_uint8
from fastgen.metrics.perceptual import PairwiseLPIPS, TeacherAlignment
from fastgen.metrics.text_image import EmbeddingScore


class TextImageMetrics(MetricSuite):
    """Scores of images and prompts, beside them how different the images are, and how close to the teacher's.

    Every score is a fidelity number and comes with its ``_diversity``. ``diversity`` adds the LPIPS between samples of
    one prompt. ``alignment`` compares with the teacher's samples of the same noise, those that
    :meth:`remember_teacher` was given.

    Args:
        scores: ``CLIPScore``, ``HPSv2``, ``PickScore``, ``AestheticScore``.
        diversity: LPIPS between the samples of one prompt or label; the evaluation has to repeat them.
        alignment: Distance to the teacher's samples from equal noise.
        alignment_count: How many of the first samples an evaluation should compare with the teacher's.
        batch_size: Images per call of a network.
    """

    def __init__(
        self,
        scores: list[EmbeddingScore] | None = None,
        diversity: PairwiseLPIPS | None = None,
        alignment: TeacherAlignment | None = None,
        alignment_count: int = 64,
        batch_size: int = 64,
    ) -> None:
        checks.whole(self, alignment_count=alignment_count, batch_size=batch_size)
        super().__init__()
        self.scores: dict[str, EmbeddingScore] = {score.name: score for score in scores or []}
        if len(self.scores) < len(scores or []):
            raise UserError("TextImageMetrics have two scores of one name; put the second into another Evaluate.")
        if not self.scores and diversity is None:
            raise UserError("TextImageMetrics need a score or 'diversity'; alignment alone does not see a collapse.")
        self.diversity = diversity
        self.alignment = alignment
        self.alignment_count = alignment_count
        self.batch_size = batch_size
        self._teacher: dict[int, Tensor] = {}

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""
        others = {"diversity": self.diversity, "alignment": self.alignment}
        return {**self.scores, **{name: metric for name, metric in others.items() if metric is not None}}

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Nothing to do: prompts are the reference."""

    @property
    def wants_teacher(self) -> int:
        """``alignment_count``, or none without ``alignment``."""
        return 0 if self.alignment is None else self.alignment_count

    def remember_teacher(self, samples: Tensor, seeds: Sequence[int]) -> None:
        """Keep the teacher's samples (B, C, H, W) from ``seeds`` for the alignment; ``reset`` keeps them too.

        Every rank must be given all of them: which rank makes which of the student's samples may change when an
        evaluation goes on after a stop.
        """
        if self.alignment is not None:
            self._teacher |= dict(zip(map(int, seeds), to_uint8(samples).cpu(), strict=True))

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in images (B, 3, H, W) that no prompts are known for."""
        self._take_in(to_uint8(samples), {} if label is None else {"label": label}, None)

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
        self._take_in(to_uint8(samples), condition, list(map(int, seeds)))

    def _take_in(self, images: Tensor, condition: Mapping[str, Any], seeds: list[int] | None) -> None:
        prompts, style = condition.get("prompt"), condition.get("style")
        group: Any = condition.get("label") if prompts is None else prompts
        if prompts is None and any(score.needs_prompts for score in self.scores.values()):
            raise UserError(
                f"The scores {', '.join(self.scores)} need prompts and the data module has none; evaluate with a data "
                "module that has prompts or remove these scores."
            )
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            for score in self.scores.values():
                score.update(images[rows], prompts and prompts[rows], style and style[rows])
            if self.diversity is not None:
                self.diversity.update(images[rows], None if group is None else group[rows], seeds and seeds[rows])
        if self.alignment is not None:
            known = [row for row, seed in enumerate(seeds or []) if seed in self._teacher]
            pairs = [self._teacher[seed] for seed in seeds or [] if seed in self._teacher]
            self.alignment.update(images[known], torch.stack(pairs) if pairs else None)

    def fingerprint(self) -> str:
        """Those of the members."""
        parts: list[Any] = [*self.scores.values(), self.diversity, self.alignment]
        return "+".join(part.fingerprint() for part in parts if part is not None)
