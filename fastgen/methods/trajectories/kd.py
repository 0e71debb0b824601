"""Knowledge distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgen.conditions import Condition
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import Sampler


class KD(TrajectoryDistiller):
    """Knowledge Distillation (Luhman & Luhman 2021, arXiv 2101.02388, eq. 7; github.com/tcl9876/Denoising_Student).

    Loss: ``1/2 |f(noise) - x|^2`` over pairs of noise and the solver's x. The solver's guidance is distilled too.

    Several steps (``sampler.times``) are the student's own chain, stopped at a random call whose x0 is regressed on the
    pair's. Keep to deterministic samplers there: fresh noise has no pair, so a ``RenoiseSampler`` learns averages.
    The paper knows one step only; NVlabs/FastGen stores inner states of the teacher for several.

    Args:
        metric: Distance of the student's samples from the pairs': half the mean squared error; the official code sums
            absolute errors on CIFAR-10.
    """

    def __init__(self, metric: Metric = SquaredError(scale=0.5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metric = metric

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Generate from the pair's noise and compare."""
        _, x0 = self.pair(part)
        return {"regression": self.metric(self.rollout(part, "student").x0, x0).mean()}

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        noise, _ = self.pair(part)
        draws = part.draws.scoped(self.rollout_scope(role))
        return self.sampler.rollout(self.student, draws, condition, noise.dtype, noise)

    def rollout_sampler(self) -> Sampler:
        return self.sampler
