"""Reflow: straightening a flow on the pairs that it makes itself."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.regression import flow_velocity
from fastgen.optimizers import BetasAdam
from fastgen.processes import Prediction
from fastgen.times import FlowTime, TimeLaw


class Reflow(TrajectoryDistiller):
    """Reflow of Rectified Flow (Liu et al. 2022, arXiv 2209.03003, eq. 1; github.com/gnobitab/RectifiedFlow).

    Loss: ``|v(x_t, t) - (noise - x)|^2`` at x_t between the ends of a pair, which is flow matching on the teacher's
    coupling. Twice the loss, summed over a sample, is the straightness of the paths. For k-rectified flow make new
    pairs by ``fastgen pairs --ckpt`` from the student. InstaFlow (arXiv 2309.06380) is guided pairs, reflow, pairs of
    the student and ``KD`` with LPIPS: ``fastgen stages --config configs/stages/instaflow_sd15.yaml``.

    Works on any process, with ``v = noise - x0``. Samplers of EDM and VP do not begin at alpha = 0 though, so that
    training sees ``alpha x`` beside the noise and the sampler does not; give the student ``RectifiedFlow`` to be exact.

    Args:
        metric: Distance of the velocities: half the mean squared error.
        time: Law of the noise levels: uniform in the time of rectified flow.
    """

    def __init__(
        self,
        metric: Metric = SquaredError(scale=0.5),
        time: TimeLaw = FlowTime(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=2e-4),
        **kwargs: Any,
    ) -> None:
        super().__init__(student_optimizer=student_optimizer, **kwargs)
        self.metric = metric
        self.time = time

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Regress the velocity between the ends of the pairs."""
        noise, x0 = self.coupling(part)
        prediction = self.between(part, noise, x0)
        return {"straightness": self.metric(flow_velocity(prediction), noise - x0).mean()}

    def coupling(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Noise and x0 between which the flow should be straight, both (B, ...)."""
        return self.pair(part)

    def between(self, part: MicroBatch, noise: Tensor, x0: Tensor) -> Prediction:
        """What the student says at a random time between the ends of pairs."""
        process = self.student.process
        t = self.time.sample(part.draws.scoped("student"), process)
        return self.student(process.add_noise(x0, noise, t), t, part.condition)
