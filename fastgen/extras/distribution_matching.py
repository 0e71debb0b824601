"""Distribution matching: a score term with its own critic, beside the loss of any method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.distiller.extra import Extra
from fastgen.distiller.run_facts import RunFacts, idle_guidance
from fastgen.distiller.score_term import ScoreTerm
from fastgen.errors import UserError
from fastgen.objectives.score_forms import DMDForm, ScoreForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import Sampler
from fastgen.times import LogNormalLevel, TimeLaw, UniformTime

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class DistributionMatching(ScoreTerm, Extra):
    """The score term of DMD (Yin et al. 2023, arXiv 2311.18828), or of another form, as a regulariser of any method.

    By default ``weight * 0.5 mean (x - sg[x - g])^2``, ``g = (mu_fake - mu_real) / mean |x - mu_real|``, on samples x
    of the student. The critic is a role of its own and has its own iterations: after each one of the method's it learns
    in the next ``critic_updates``, on fresh samples.

    rCM (Zheng et al. 2025, arXiv 2510.08431; github.com/NVlabs/rcm) is sCM with this term. Its code adds
    ``100 sum |F - target|^2`` and ``sum |x - target|^2`` per sample; beside SCM's mean that is the weight 2 / 100.

    Args:
        weight: Factor of the student's term.
        start: Student update from which the term is active and the critic learns; rCM waits for sCM's warm-up.
        critic: Builds the critic (fake score), or says how it is made from the frozen teacher.
        critic_optimizer: Builds the critic's optimizer; default rCM's at 1.3B.
        critic_updates: Iterations of the critic for each of the method's; rCM: 4, for 14B 9.
        sampler: How the student generates what this term and other extras judge, if the method makes no samples of its
            own; ``student`` is as it generates afterwards. rCM: ``AnytimeSampler``.
        renoise_time: Law of the noise levels at which the scores are compared.
        critic_time: Law of the noise levels at which the critic learns.
        critic_objective: The critic's loss.
        guidance: Guidance scales of teacher and critic.
        form: How the two scores become the student's loss.
        role: The critic's name among the roles; a second term needs another.
    """

    owner: Distiller

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        critic: Callable[[], Denoiser] | FromTeacher = CopyOfTeacher(),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-7, beta1=0.0),
        critic_updates: int = 4,
        sampler: Sampler | Literal["student"] = "student",
        renoise_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_time: TimeLaw = LogNormalLevel(),
        critic_objective: DenoisingLoss = DenoisingLoss(),
        guidance: Guidance = Guidance(),
        form: ScoreForm = DMDForm(),
        role: str = "critic",
    ) -> None:
        checks.whole(self, critic_updates=critic_updates)
        if not role.isidentifier():
            raise UserError(f"DistributionMatching: role is the name of a network, such as critic_2, got '{role}'.")
        super().__init__(weight, start)
        self.factory = critic
        self.optimizer = critic_optimizer
        self.critic_updates = critic_updates
        self.sampler = None if isinstance(sampler, str) else sampler
        self.renoise_time = renoise_time
        self.critic_time = critic_time
        self.critic_objective = critic_objective
        self.guidance = guidance
        self.form = form
        self.critic_role = role
        self.watches = {}

    # ------------------------------------------------------------------ the critic's role

    @property
    def method(self) -> Distiller:
        return self.owner

    @property
    def critic(self) -> Denoiser:
        """The critic, which the method owns under the name of its role."""
        return getattr(self.method, self.critic_role)

    def build(self, method: Distiller) -> None:
        if method.teacher is None:
            raise UserError("DistributionMatching compares with a teacher; give model.init_args.teacher.")
        if self.critic_role in method.built_roles or hasattr(type(method), self.critic_role):
            raise UserError(
                f"Two parts of the method bring the role '{self.critic_role}'; give the extra DistributionMatching "
                "another 'role', or leave it out."
            )
        object.__setattr__(self, "owner", method)  # no submodule
        method.factories[self.critic_role] = self.factory
        setattr(method, self.critic_role, method.build_role(self.critic_role))

    def score_term(self) -> ScoreTerm:
        return self

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        yield from super().without_effect(run)
        yield from idle_guidance(run, self.guidance, self.critic, self.critic)
        if self.sampler is not None and self.method.rollout_sampler() is not self.sampler:
            yield (
                "the sampler of the extra DistributionMatching is not used, because its samples are made by the method "
                "or as another extra says; leave it out."
            )

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {self.critic_role: [self.critic]}

    def optimizers(self) -> dict[str, OptimizerCallable]:
        return {self.critic_role: self.optimizer}

    def turns(self, turns: tuple[str, ...], iteration: int) -> tuple[str, ...]:
        return (self.critic_role,) if iteration % (self.critic_updates + 1) else turns

    # ------------------------------------------------------------------ losses

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role == "student":
            return {name: self.weight * value for name, value in self.matching_losses(part).items()}
        return self.denoising_losses(part) if role == self.critic_role else {}
