"""SlimFlow: reflow into a smaller network, then one step that is guided by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.denoisers.wrappers.policy import FLOW
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.stages import Staged, overwrite, snapshot_of
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods.trajectories.base import FromPairs, Perceptual
from fastgen.methods.trajectories.reflow import Reflow
from fastgen.objectives.regression import anneal, annealed_noise, flow_velocity
from fastgen.shapes import expand

LAST_UPDATE = 2**62
"""The second stage has no end of its own."""


class SlimFlow(Staged, Perceptual, FromPairs, Reflow):
    """SlimFlow (Zhu, Liu & Liu 2024, arXiv 2407.12718; github.com/yuanzhi-zhu/SlimFlow), for a student that is smaller
    than what made the pairs.

    *Stage 0, annealing reflow.* The pair's noise is mixed with fresh one, ``sqrt(1 - b^2) noise + b fresh``, and b
    falls from 1 to 0: training goes smoothly from an independent coupling to the teacher's. *Stage 1, flow-guided
    distillation.* The student's one call is regressed on the pair's x, and, from fresh noise z, its velocity p on that
    of a broken path: along p for a random part w of the way, then along the frozen student of stage 0,
    ``sg[w p + (1 - w) v(z - w p)]``, which needs no pair.

    The student is asked once; stages follow each other in one run with fresh optimizers. Differs: stage 1 reads the
    pairs of stage 0 and not pairs of the student of stage 0 (for that make two runs by ``fastgen stages``). The numbers
    of updates are not verified.

    Args:
        reflow_updates: Student updates of stage 0; 0 leaves it out.
        annealing: How b falls.
        anneal_updates: Updates until it has.
        guide_weight: Factor of the loss of the broken path; 0 makes none.
        guide_low: Least part w of the way that is the student's.
        guide_high: Largest part w.
        flip: Mirror half of the pairs, noise and x alike (pictures only).
        perceptual: Builds a distance of decoded pictures for the pairs of stage 1, in place of ``metric``.
    """

    def __init__(
        self,
        reflow_updates: int = 400_000,
        annealing: Literal["linear", "cosine", "exponential"] = "linear",
        anneal_updates: int = 300_000,
        guide_weight: float = 1.0,
        guide_low: float = 0.2,
        guide_high: float = 0.8,
        flip: bool = False,
        perceptual: Callable[[], PerceptualDistance] | None = None,
        **kwargs: Any,
    ) -> None:
        checks.whole(self, 0, reflow_updates=reflow_updates)
        checks.whole(self, anneal_updates=anneal_updates)
        checks.not_negative(self, guide_weight=guide_weight)
        checks.fraction(self, guide_low=guide_low, guide_high=guide_high)
        checks.ascending(self, guide_low=guide_low, guide_high=guide_high)
        super().__init__(perceptual=perceptual, **kwargs)
        self.annealing, self.anneal_updates = annealing, anneal_updates
        self.guide_weight, self.guide_low, self.guide_high, self.flip = guide_weight, guide_low, guide_high, flip
        self.have_stages([reflow_updates, LAST_UPDATE])

    def build_roles(self) -> None:
        super().build_roles()
        self.snapshot = snapshot_of(self.student)

    def begin_stage(self, stage: int) -> None:
        """The straight flow stays as a guide."""
        overwrite(self.snapshot, self.student)
        super().begin_stage(stage)

    def coupling(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        noise, x0 = self.pair(part)
        draws = part.draws.scoped("student")
        if self.flip:
            mirrored = expand(draws.uniform("flip") < 0.5, noise).bool()
            noise, x0 = (torch.where(mirrored, v.flip(-1), v) for v in (noise, x0))
        left = anneal(self.annealing, self.student_updates, self.anneal_updates)
        return annealed_noise(noise, draws.normal("fresh", noise.shape[1:], noise.dtype), left), x0

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """That of the running stage."""
        if int(self.stage) == 0:
            return super().student_loss(part)
        _, x0 = self.pair(part)
        made = self.rollout(part, "student").x0
        pairs = self.metric(made, x0) if self.perceptual is None else self.looks(made, x0)
        losses = {"regression": pairs.mean()}
        if self.guide_weight:
            losses["guide"] = self.guide_weight * self.guided_by_flow(part).mean()
        return losses

    def guided_by_flow(self, part: MicroBatch) -> Tensor:
        """Distances (B,) of the student's velocity and that of the broken path."""
        draws, process = part.draws.scoped("guide"), self.student.process
        z = draws.normal("noise", self.student.sample_shape, self.noise_dtype())
        t = z.new_full((len(z),), process.t_max, dtype=torch.float64)
        velocity = flow_velocity(self.student(process.start(z, t), t, part.condition))
        passed = self.guide_low + (self.guide_high - self.guide_low) * draws.uniform("part")
        with torch.no_grad():
            share = expand(passed, z)
            middle = z - share * velocity
            frozen = on_process(cast(Denoiser, self.snapshot), FLOW)
            rest = flow_velocity(frozen(middle, 1.0 - passed, part.condition))
            target = share * velocity + (1.0 - share) * rest
        return self.metric(velocity, target)
