"""CausVid."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.causal.base import causal
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.clips.inputs import chunk_steps, noised_frames
from fastgen.sampling.rollout import Rollout
from fastgen.times import ClampedTime, FlowTime, TimeLaw

SHIFT_8 = ClampedTime(FlowTime(low=0.0, high=0.999, shift=8.0))


class CausVid(SelfForcing):
    """CausVid's asymmetric distillation (Yin et al. 2024, arXiv 2412.07772; github.com/tianweiy/CausVid).

    As :class:`SelfForcing`, but the student is called once, in parallel and with its mask, at real clips whose chunks
    are noised each to the time of one of its calls or are clean (diffusion forcing). Its own errors it never sees, so
    it drifts in long streams. The student begins as :class:`ODEInitialisation` leaves it.

    Args:
        clean_frames: Whether a chunk may be clean.
        renoise_time: Law of the noise levels at which the scores are compared: as there, at shift 8.
        critic_time: Law of the noise levels at which the critic learns: the same.
        guidance: 4.5 for the teacher, ``cond + 3.5 (cond - uncond)``.
        gradient_clip: Largest gradient norm.
    """

    def __init__(
        self,
        clean_frames: bool = True,
        renoise_time: TimeLaw = SHIFT_8,
        critic_time: TimeLaw = SHIFT_8,
        guidance: Guidance = Guidance(teacher=4.5),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            renoise_time=renoise_time,
            critic_time=critic_time,
            guidance=guidance,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.clean_frames = clean_frames

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """One call at noised real clips.

        Raises:
            UserError: If there are none.
        """
        if part.x0 is None:
            raise UserError("CausVid noises real clips; the data module gives none ('x0' is missing).")
        network, times = causal(self.student), self.sampler.schedule(self.student)
        draws = part.draws.scoped(self.rollout_scope(role))
        steps = chunk_steps(network, len(times) + self.clean_frames, draws)
        noise = draws.normal("noise", network.sample_shape, self.noise_dtype())
        x_t, t = noised_frames(network, part.x0.to(noise.dtype), noise, steps, times)
        told = self.student_condition(condition, draws)
        x0, latest = self.student(x_t, t, told).x0, t.flatten(1).amax(1)
        clean = latest.new_full(latest.shape, network.process.t_clean)
        return Rollout(x0, condition, latest, steps.amin(1).clamp(max=len(times) - 1), x0, clean)
