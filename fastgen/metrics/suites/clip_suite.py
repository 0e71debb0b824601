"""The suite for clips of a known linear-Gaussian process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite, members
from fastgen.metrics.laws.clips import ClipDistance
from fastgen.metrics.laws.law_metric import LawMetric
from fastgen.metrics.suites.mixture_suite import MixtureMetrics


class ClipMetrics(MixtureMetrics):
    """Exact distances of clips to their law, given what each was asked for: its class, and what drives its motion.

    Args:
        distribution: The law, a ``LinearGaussianClips``.
        metrics: What to measure, in clips around their means.
    """

    def __init__(self, distribution: Callable[[], Denoiser], metrics: Sequence[LawMetric] = (ClipDistance(),)) -> None:
        MetricSuite.__init__(self)
        law: Any = distribution()
        if not hasattr(law, "mean_of"):
            raise UserError(f"ClipMetrics measure clips of LinearGaussianClips, not of {type(law).__name__}; give one.")
        self.law = law
        self._members = members(self, metrics, lambda metric: metric.build(law))

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in clips (B, ...) of the classes ``label``."""
        self.observe(samples, {} if label is None else {"label": label}, ())

    def observe(self, samples: Tensor, condition: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Take in clips with what they were asked for; their means are taken off."""
        self.refuse_other_shapes(samples)
        samples = samples.to(self.device)
        known = {n: v.to(self.device) for n, v in condition.items() if isinstance(v, Tensor)}
        label = known.get("label") if self.law.num_classes else None
        mean = self.law.mean_of({} if label is None and "drive" not in known else known, self.law.frames, samples)
        for metric in self._members.values():
            metric.update(samples.double() - mean.reshape(samples.shape), label)
