"""Knowledge distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods.trajectories.base import FromPairs, Perceptual
from fastgen.objectives.metrics import Metric, SquaredError


class KD(Perceptual, FromPairs):
    """Knowledge Distillation (Luhman & Luhman 2021, arXiv 2101.02388, eq. 7; github.com/tcl9876/Denoising_Student).

    Loss: ``1/2 |f(noise) - x|^2`` over pairs of noise and the solver's x. The solver's guidance is distilled too.

    Several steps (``sampler.times``) are the student's own chain, stopped at a random call whose x0 is regressed on the
    pair's. Keep to deterministic samplers there: fresh noise has no pair, so a ``RenoiseSampler`` learns averages.
    The paper knows one step only; NVlabs/FastGen stores inner states of the teacher for several.

    Args:
        metric: Distance of the student's samples from the pairs': half the mean squared error; the official code sums
            absolute errors on CIFAR-10.
        perceptual: Builds a distance of decoded pictures in its place, e.g. ``{class_path: LPIPS}`` (InstaFlow, GET).
    """

    def __init__(
        self,
        metric: Metric = SquaredError(scale=0.5),
        perceptual: Callable[[], PerceptualDistance] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(perceptual=perceptual, **kwargs)
        self.metric = metric

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Generate from the pair's noise and compare."""
        _, x0 = self.pair(part)
        made = self.rollout(part, "student").x0
        return {"regression": (self.metric(made, x0) if self.perceptual is None else self.looks(made, x0)).mean()}
