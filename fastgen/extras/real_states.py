"""RealStates: what the student makes of noised real samples has a critic of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.cli import OptimizerCallable

from fastgen import checks
from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.errors import UserError
from fastgen.extras.distribution_matching import DistributionMatching
from fastgen.objectives.score_forms import DMDForm, ScoreForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import call
from fastgen.times import TimeLaw, UniformTime

if TYPE_CHECKING:
    from fastgen.distiller.micro_batch import MicroBatch


class RealStates(DistributionMatching):
    """The "real-data fake" of ModelTC/LightX2V (trainers/tricks/real_data_fake.py), beside DMD2 and its kin.

    The student is called once at real samples under noise, at one of a few levels, and its x0 there is matched as
    DMD's is: ``weight * 0.5 mean (x - sg[x - g])^2``, ``g = (mu_fake - mu_real) / mean |x - mu_real|``. The law of
    these predictions is another one than that of whole samples, so it has a critic of its own, which learns in the
    turns of the method's critic (in the student's, where there is none). At the level 1 it is DMD with one call.

    Not here: the split of Phased DMD, where the points at a phase's end are matched. Not verified: learning rates.

    Args:
        weight: Factor of the student's term; 0.1 in the code, 0.2 for Wan at 14B.
        start: Student update from which the term is active and the critic learns.
        nodes: Levels at which the student is called, as shares of those that networks are trained at; all ranks share
            the drawn one. 0.75 for Wan at 14B.
        critic: Builds the critic, or says how it is made from the frozen teacher.
        critic_optimizer: Builds the critic's optimizer.
        renoise_time: Law of the noise levels at which the scores are compared.
        critic_time: Law of the noise levels at which the critic learns.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: Guidance scales of teacher and critic.
        form: How the two scores become the student's loss.
        role: The critic's name among the roles; a second term needs another.
    """

    def __init__(
        self,
        weight: float = 0.1,
        start: int = 0,
        nodes: Sequence[float] = (0.75,),
        critic: Callable[[], Denoiser] | FromTeacher = CopyOfTeacher(),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-7, beta1=0.0),
        renoise_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(),
        form: ScoreForm = DMDForm(),
        role: str = "real_critic",
    ) -> None:
        checks.not_empty(self, nodes=nodes)
        checks.between(self, 0.0, 1.0, "(]", nodes=nodes)
        super().__init__(
            weight=weight,
            start=start,
            critic=critic,
            critic_optimizer=critic_optimizer,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            form=form,
            role=role,
        )
        self.nodes = list(nodes)

    def turns(self, turns: tuple[str, ...], iteration: int) -> tuple[str, ...]:
        leader = "critic" if "critic" in self.method.built_roles else "student"
        own = self.critic_role
        return tuple(name for role in turns for name in ((role, own) if role == leader else (role,)))

    def judged(self, part: MicroBatch, role: str, condition: Condition | None = None) -> Rollout:
        """The student's predictions at noised real samples; only its own turn records their graph."""
        if part.x0 is None:
            raise UserError("RealStates needs real samples; the data module gives none ('x0' is missing).")
        method, student = self.method, self.method.student
        process, draws = student.process, part.draws.scoped(self.scope(f"{role}/real"))
        node = self.nodes[draws.shared_integer("node", len(self.nodes))]
        t = process.position(torch.full((len(draws),), node, dtype=torch.float64, device=draws.device))
        noise = draws.normal("noise", student.sample_shape, method.noise_dtype())
        x_t = process.start(noise, t) if node == 1.0 else process.add_noise(part.x0.to(noise.dtype), noise, t)
        condition = part.condition if condition is None else condition
        told = method.student_condition(condition, draws)
        with torch.set_grad_enabled(role == "student" and torch.is_grad_enabled()):
            made = call(student, x_t, t, told, process.t_clean)
        return Rollout.of((made,), condition, 0)
