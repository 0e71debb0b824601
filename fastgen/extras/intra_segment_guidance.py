"""Intra-segment guidance: a step of the student is worth a step of the teacher and one of the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.guided import Guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.objectives.metrics import ElementwiseHuber, Metric
from fastgen.processes import Prediction
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import last_call
from fastgen.times import Chain, TimeLaw, WithinChain

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class IntraSegmentGuidance(Extra):
    """Intra-segment guidance, ISG (Ge et al. 2025, SenseFlow, arXiv 2506.00523; github.com/XingtongGe/SenseFlow).

    The student's step from a time t to the next of its times, s, ends where a guided Euler step of the teacher from t
    to a time r between them, and a step of the student from there to s, end: ``weight mean d(jump(t, s), sg[...])``. It
    is the student's own last call, which the method's other losses judge too. It carries what the teacher knows between
    the few times at which the student is called.

    Args:
        weight: Factor of the term: 0.5 on SD3.5 medium, 1 on FLUX.1.
        start: Student update from which it is active.
        time: Law of r; SenseFlow keeps 50 of 1000 steps away from both ends (20 on FLUX.1).
        low: Least guidance scale of the teacher, drawn evenly for each sample; 1 on FLUX.1, which is told it.
        high: Largest; 8 on FLUX.1.
        metric: d: elementwise pseudo-Huber.
    """

    def __init__(
        self,
        weight: float = 0.5,
        start: int = 0,
        time: TimeLaw = WithinChain("anchor", "student", floor=0.0, margin=0.05),
        low: float = 2.0,
        high: float = 4.0,
        metric: Metric = ElementwiseHuber(1e-3),
    ) -> None:
        checks.not_negative(self, low=low, high=high)
        checks.ascending(self, low=low, high=high)
        super().__init__(weight, start)
        self.time = time
        self.low = low
        self.high = high
        self.metric = metric

    def build(self, method: Distiller) -> None:
        if method.teacher is None:
            raise UserError("IntraSegmentGuidance asks a teacher; give model.init_args.teacher.")

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        rollout = method.rollout(part, "student")
        made, end = last_call(rollout), self.end(method, rollout)
        target = self.target(method, part, rollout, made.detach(), end)
        return {"segment": self.weight * self.metric(made.process.jump(made, end), target).mean()}

    def end(self, method: Distiller, rollout: Rollout) -> Tensor:
        """Where the student's step ends, (B,): its next time, or data."""
        process, student = method.student.process, method.student
        times = [*method.rollout_sampler().schedule(student)[1:], process.t_clean]
        step = torch.as_tensor(rollout.step, device=rollout.t.device)
        if int(step.max()) >= len(times):
            raise UserError(
                "IntraSegmentGuidance needs a student that is called at its own times; take RenoiseSampler."
            )
        return torch.tensor(times, dtype=torch.float64, device=rollout.t.device)[step].expand_as(rollout.t)

    @torch.no_grad()
    def target(self, method: Distiller, part: MicroBatch, rollout: Rollout, made: Prediction, end: Tensor) -> Tensor:
        """The state at the end by way of the middle, (B, ...)."""
        assert method.teacher is not None  # build
        process, draws = made.process, part.draws.scoped("segment")
        middle = self.time.given(Chain(rollout.t, end, rollout.step, method.student_updates)).sample(draws, process)
        scale = self.low + (self.high - self.low) * draws.uniform("guidance")
        teacher = on_process(method.teacher, process)
        known = method.role_condition(part, "teacher", rollout.condition)
        asked = teacher if self.low == self.high == 1.0 else Guided(teacher, scale)
        x = process.jump(asked(made.x_t, made.t, known), middle)
        told = method.student_condition(rollout.condition, draws)
        s = end if method.student.takes_second_time else None
        return process.jump(method.student(x, middle, told, s), end)
