"""Shortcutting pre-trained flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.denoisers.base import Denoiser
from fastgen.distiller.averaging import ConstantEMA, EMARule
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.targets import TargetNetwork
from fastgen.objectives.flow_maps import two_leg_target
from fastgen.objectives.tangents import same_randomness
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Prediction, Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import LadderTimes


@dataclass(frozen=True)
class TwoSpeeds(TargetNetwork):
    """Two moving averages of the student; the slow one is the target, the fast one makes first steps.

    Args:
        fast: How fast the one moves.
        slow: How fast the other moves.
    """

    fast: EMARule = ConstantEMA(0.99)
    slow: EMARule = ConstantEMA(0.999)

    def copies(self) -> int:
        return 2

    def network(self, student: Denoiser, kept: Sequence[Denoiser]) -> Denoiser:
        return kept[1]

    def beta(self, update: int, samples_seen: int, samples: int) -> list[float]:
        return [rule.beta(update, samples_seen, samples) for rule in (self.fast, self.slow)]


class SCFM(FlowMapDistiller):
    """Shortcutting pre-trained flow matching (arXiv 2510.17858; github.com/caitree/scfm).

    The student's velocity at a state leads in one step where two steps lead: ``|v - sum dt_i v_i / sum dt_i|^2``. The
    first step is the teacher's on its fine grid, or the fast average's on a coarse one; the second is always the slow
    average's. The student is told one time only: it stays a velocity network that any Euler sampler can call.

    Differs from the code: the first time is 1, not 1 - 1e-5; FLUX's dynamic shift has no share; no averages that start
    anew every 2000 updates (SD3.5).

    Args:
        times: Law of the two steps and of whose they are.
        coordinates: As of any flow map.
        target: The two averages.
        sampler: Euler steps.
        guidance: Of the teacher; 3.5 for SD3.5. A teacher with embedded guidance is told its own.
    """

    times: LadderTimes
    target: TwoSpeeds

    def __init__(
        self,
        times: LadderTimes = LadderTimes(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        target: TwoSpeeds = TwoSpeeds(),
        sampler: Sampler = JumpSampler(),
        guidance: TeacherGuidance = TeacherGuidance(low=3.5),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-5),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times,
            coordinates=coordinates,
            target=target,
            sampler=sampler,
            guidance=guidance,
            student_optimizer=student_optimizer,
            **kwargs,
        )

    def needs_teacher(self) -> bool:
        return True

    @torch.no_grad()
    def two_steps(self, state: MapState, by_teacher: Tensor) -> Tensor:
        """The velocity (B, ...) of the line over two steps."""
        x, (t, r, s), process = state.x_t, (state.times.t, state.times.r, state.times.s), self.coordinates
        teacher, fast = self.networks.guided_teacher(state), self.target_weights.networks()[0]
        with same_randomness(x.device):
            ours = self.predict(fast, x, t, r, state)
        theirs = teacher(x, t, state.condition).velocity
        velocity = torch.where(by_teacher.reshape(-1, *[1] * (x.ndim - 1)), theirs, ours.velocity)
        first = Prediction(process, ours.x_t, t, velocity, "velocity")
        with same_randomness(x.device):
            second = self.predict(self.target_network(), process.jump(first, r), r, s, state).velocity
        return two_leg_target(process, t, r, s, x, first.velocity, second)

    def map_loss(self, state: MapState, by_teacher: Tensor | None = None) -> dict[str, Tensor]:
        """The loss where the first step is the teacher's for the samples ``by_teacher`` (B,), by default for none."""
        own = torch.zeros_like(state.dropped) if by_teacher is None else by_teacher
        target = self.two_steps(state, own)
        output = self.predict(self.student, state.x_t, state.times.t, state.times.s, state).velocity
        return {"shortcut": (output - target).square().mean()}

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """A state, two steps, one step."""
        return self.map_loss(self.state(part), self.times.by_teacher(part.draws.scoped("student")))
