"""Truncated consistency models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.run_facts import RunFacts
from fastgen.distiller.stages import Staged
from fastgen.methods.flow_maps.ect import ECT
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.target_by_time import TargetByTime
from fastgen.methods.flow_maps.targets import SnapshotTarget, StudentTarget
from fastgen.objectives.metrics import Metric, PseudoHuber
from fastgen.optimizers import BetasRAdam
from fastgen.times import BoundaryLevel, EasyTimes, JumpLaw, TruncatedLevel


class TCM(Staged, ECT):
    """Truncated consistency models (Lee et al. 2024, arXiv 2410.14895; github.com/NVlabs/TCM).

    First easy consistency tuning. Then the student learns above a noise level only, and at and below it answers the
    model with which the second stage began. A share of the samples lies on the boundary, where the target is that
    model's (without them a constant would do); ``w_b`` times their mean is added to the mean of the others.

    The first stage can be a run of ``ECT`` (the default: ``first_updates: 0``, the student's weights are its result) or
    the beginning of this run. The second has fresh optimizers. The student must not be called below the boundary.

    Differs: samples are assigned to the boundary independently, so the means are those of the expected shares.

    Args:
        level: The boundary, a noise level sigma / alpha.
        boundary: Share of boundary samples.
        boundary_weight: w_b.
        first_updates: Student updates of the first stage.
        first_times: Law of its times.
        times: Law of the times of the second stage; its levels are kept above the boundary.
        metric: The plain norm but for 1e-8 (CIFAR-10); ImageNet 64 has ``PseudoHuber(0.06)`` and ``EDMWeight``.
    """

    times: JumpLaw

    def __init__(
        self,
        level: float = 1.0,
        boundary: float = 0.25,
        boundary_weight: float = 0.1,
        first_updates: int = 0,
        first_times: JumpLaw = EasyTimes(),
        times: EasyTimes = EasyTimes(TruncatedLevel(), q=256.0, double=None),
        metric: Metric = PseudoHuber(1e-8),
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=5e-5),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, 0, first_updates=first_updates)
        checks.not_negative(self, boundary_weight=boundary_weight)
        checks.fraction(self, boundary=boundary)
        self.law = BoundaryLevel(times.law, level, boundary)
        target = TargetByTime(level, StudentTarget(), SnapshotTarget(every=0))
        super().__init__(times=times, target=target, metric=metric, student_optimizer=student_optimizer, **kwargs)
        self.level = level
        self.boundary_weight = boundary_weight
        self.first_updates = first_updates
        self.laws = first_times, replace(times, law=self.law)
        self.have_stages([first_updates, first_updates + 1] if first_updates else [])
        self.enter(0)

    @property
    def truncated(self) -> bool:
        """Whether the second stage has begun."""
        return self.first_updates == 0 or int(self.stage) == 1

    def enter(self, stage: int) -> None:
        super().enter(stage)
        self.times = self.laws[int(self.truncated)]

    def begin_stage(self, stage: int) -> None:
        super().begin_stage(stage)
        self.target.begin(self.student, self.target_weights)

    def target_network(self) -> Denoiser:
        return super().target_network() if self.truncated else self.student

    def loss_weight(self, state: MapState) -> Tensor:
        weight = super().loss_weight(state)
        if not self.truncated:
            return weight
        on_boundary = self.law.on_boundary(self.coordinates.ratio(state.times.t))
        share = self.law.share
        return weight * torch.where(on_boundary, self.boundary_weight / share, 1.0 / (1.0 - share))

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        yield from super().without_effect(run)
        times = torch.tensor(self.sampler.schedule(self.student), dtype=torch.float64, device="cpu")
        low = [f"{time:g}" for time in times[self.student.process.ratio(times) < self.level].tolist()]
        if low:
            yield (
                f"TCM's student does not learn below the noise level {self.level:g}, but is called there (at "
                f"{', '.join(low)}); give model.init_args.sampler times above it."
            )
