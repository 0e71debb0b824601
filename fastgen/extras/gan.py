"""GAN: a discriminator on a denoiser's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgen import checks
from fastgen.conditions import Condition, concatenate
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.features import DiscriminatorHead, Watched, feature_shapes, tap
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.objectives.adversarial import AdversarialLoss, NonSaturating, gradient_penalty, smoothness_penalty
from fastgen.objectives.weights import LevelWeight, UniformWeight
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.times import TimeLaw, UniformTime

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch
    from fastgen.distiller.score_term import ScoreTerm

ROLE = "discriminator"


class GAN(Extra):
    """Diffusion GAN on features of a denoiser (Yin et al. 2024, DMD2, arXiv 2405.14867, section 4.3).

    Real and fake samples are noised at independent times; small heads on the features give logits. The discriminator
    learns with the critic (DMD2), or is a role of its own, ``discriminator``, if it has an optimizer of its own; its
    turn then follows the critic's, or the student's if there is no critic.

    Args:
        weight: Factor of the student's loss, by default ``softplus(-D(fake))``.
        discriminator_weight: Factor of the discriminator's loss. On the critic's features, more than about 1e-2
            destroys the critic.
        start: Student update from which all terms are active.
        features: Whose features are read: the critic's, which learn with the head; the teacher's, which stay frozen;
            or those of a network of its ``own``.
        layer: Module path of the features, or several, with a head each; ``bottleneck`` is where the network is
            narrowest.
        time: Law of the noise levels.
        width: Channels of the heads; ``features`` for as many as the features have.
        network: Builds the network with features of its ``own``, or says how it is made from the teacher.
        optimizer: Builds the discriminator's own optimizer. ``by features`` trains heads on features of others with the
            critic's, and a network of its own with Adam.
        at_scores: Judge the student at the very noisy samples whose scores are compared, as NVlabs/FastGen does.
        r1_weight: Factor, within the discriminator's loss, of the approximate R1 penalty (Lin et al. 2025, arXiv
            2501.08316): the squared change of the logits of real samples that are moved a little; 0 for none.
        r1_noise: Standard deviation of that move of x0; noise and time stay the same. 0 gives no penalty at all.
        r1_gamma: Factor of the exact R1 penalty at real samples, ``1/2 |grad D|^2`` (Mescheder et al. 2018, arXiv
            1801.04406), beside ``discriminator_weight``; 0 for none. It differentiates the features twice.
        r1_interval: Updates between two exact penalties, whose factor grows by as much (lazy regularisation).
        objective: The two losses of the logits.
        level_weight: Weight of a sample in both by the noise level of the student's call that made it; SenseFlow (arXiv
            2506.00523) has ``(1 - sigma)^2``, so that calls at much noise are hardly judged.
        role: The discriminator's name among the roles, if it has an optimizer of its own; a second one needs another.
    """

    reads_others = True

    def __init__(
        self,
        weight: float = 3e-3,
        discriminator_weight: float = 1e-2,
        start: int = 0,
        features: Literal["critic", "teacher", "own"] = "critic",
        layer: str | list[str] = "bottleneck",
        time: TimeLaw = UniformTime(0.0, 1.0),
        width: int | Literal["features"] = "features",
        network: Callable[[], Denoiser] | FromTeacher = CopyOfTeacher(),
        optimizer: OptimizerCallable | Literal["by features"] = "by features",
        at_scores: bool = False,
        r1_weight: float = 0.0,
        r1_noise: float = 0.1,
        r1_gamma: float = 0.0,
        r1_interval: int = 16,
        objective: AdversarialLoss = NonSaturating(),
        level_weight: LevelWeight = UniformWeight(),
        role: str = ROLE,
    ) -> None:
        if not role.isidentifier() or role == "critic":
            raise UserError(f"GAN: role is the name of a discriminator, such as pixel_discriminator, got '{role}'.")
        checks.not_negative(self, discriminator_weight=discriminator_weight, r1_weight=r1_weight, r1_noise=r1_noise)
        checks.not_negative(self, r1_gamma=r1_gamma)
        checks.whole(self, width=None if width == "features" else width, r1_interval=r1_interval)
        checks.not_empty(self, layer=layer)
        super().__init__(weight, start)
        self.discriminator_weight = discriminator_weight
        self.features = features
        self.layers = None if layer == "bottleneck" else [layer] if isinstance(layer, str) else layer
        self.time = time
        self.width = None if isinstance(width, str) else width
        self.factory = network
        own = torch.optim.Adam if features == "own" else None
        self.optimizer = own if isinstance(optimizer, str) else optimizer
        self.role = "critic" if self.optimizer is None else role
        self.at_scores = at_scores
        self.r1_weight = r1_weight
        self.r1_noise = r1_noise
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.objective = objective
        self.level_weight = level_weight

    def build(self, method: Distiller) -> None:
        if self.role == "critic" and "critic" not in method.built_roles:
            raise UserError(
                f"The GAN extra is trained with the critic, which {type(method).__name__} does not have; give it an "
                "optimizer of its own."
            )
        if self.r1_gamma > 0 and isinstance(getattr(method._trainer, "strategy", None), ModelParallelStrategy):
            raise UserError(
                "The exact R1 penalty differentiates a network twice, but sharded weights are there for one derivative "
                "only; set r1_gamma to 0, or trainer.strategy to ddp_find_unused_parameters_true."
            )
        self.follows = "critic" if "critic" in method.built_roles else "student"
        if self.features == "own":
            self.own = method.build_from(self.factory, self.role)
        self.heads = self.make_heads(method)

    def make_heads(self, method: Distiller) -> nn.ModuleList:
        """The heads, one for each layer that is read."""
        network = self.network(method)
        self.layers = self.layers or [network.feature_path]
        shapes = feature_shapes(network, self.layers)
        return nn.ModuleList(DiscriminatorHead(shape, width=self.width) for shape in shapes)

    def network(self, method: Distiller) -> Denoiser:
        """The network whose features are read."""
        network = self.own if self.features == "own" else getattr(method, self.features, None)
        if network is None:
            raise UserError(f"The GAN extra reads features of the {self.features}, which this method does not have.")
        return network

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {self.role: [self.own, self.heads] if self.features == "own" else [self.heads]}

    def optimizers(self) -> dict[str, OptimizerCallable]:
        return {} if self.optimizer is None else {self.role: self.optimizer}

    def turns(self, turns: tuple[str, ...], iteration: int) -> tuple[str, ...]:
        if self.role == "critic":
            return turns
        return tuple(name for role in turns for name in ((role, self.role) if role == self.follows else (role,)))

    def judge(self, method: Distiller, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Logits (B, heads) of noisy samples ``x_t`` (B, ...) at times ``t`` (B,) of the student's process.

        Positive means real.
        """
        network = self.network(method)
        with tap(network.backbone, self.layers or [], "left out") as features:
            on_process(network, method.student.process)(x_t, t, condition)
        return self.read(features)

    def read(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, heads) of features by layer."""
        return torch.stack([head(features[name]) for name, head in zip(self.layers or [], self.heads, strict=True)], 1)

    def logits(self, method: Distiller, *judged: tuple[Tensor, Condition, Draws]) -> tuple[Tensor, ...]:
        """Logits (B, heads) of each of some batches of clean samples x0 (B, ...), noised at drawn levels, in one call.

        Each comes with its condition and the random numbers of its noise.
        """
        process, noisy, times = method.student.process, [], []
        for x0, _, draws in judged:
            t = self.time.sample(draws, process)
            noisy.append(process.add_noise(x0, draws.normal("noise", x0.shape[1:], x0.dtype), t))
            times.append(t)
        together = concatenate([condition for _, condition, _ in judged])
        logits = self.judge(method, torch.cat(noisy), torch.cat(times), together)
        return logits.split([len(t) for t in times])

    # ------------------------------------------------------------------ one call for scores and features

    def watching(
        self, term: ScoreTerm, part: MicroBatch, x_t: Tensor, role: str
    ) -> dict[nn.Module, Callable[[Denoiser], Denoiser]]:
        method = term.method
        told = getattr(term.guidance, self.features, 0.0) != 0.0  # else it is not told the condition there
        if role != "student" or not self.at_scores or term is not method.score_term() or not told:
            return {}
        return self.watching_features(method, part, x_t)

    def watching_features(
        self, method: Distiller, part: MicroBatch, x_t: Tensor
    ) -> dict[nn.Module, Callable[[Denoiser], Denoiser]]:
        """The network whose features are read, seen so that it keeps them."""
        network = self.network(method)
        features = part.features[self] = {}
        return {network: lambda view: Watched(view, network.backbone, self.layers or [], x_t, features)}

    def logits_at_scores(self, method: Distiller, part: MicroBatch) -> Tensor:
        """Logits (B, heads) where the scores are compared, of the call that compared them if it was this network's.

        Raises:
            UserError: If nothing is compared.
        """
        term = method.score_term()
        if term is None:
            raise UserError(f"at_scores of the GAN needs scores, which {type(method).__name__} does not compare.")
        inputs = term.score_inputs(part)
        term.comparison(part)
        if features := part.features.get(self):
            return self.read(features)
        return self.judge(method, inputs.x_t, inputs.t, inputs.rollout.condition)

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role == "student":
            return self.student_losses(method, part)
        return self.own_losses(method, part) if role == self.role else {}

    def student_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        """What the student learns from the discriminator."""
        rollout = method.rollout(part, "student")
        if self.at_scores:
            logits = self.logits_at_scores(method, part)
        else:
            told = self.told(method, part, rollout.condition)
            (logits,) = self.logits(method, (rollout.x0, told, part.draws.scoped("student/gan")))
        return {"gan": self.weight * self.objective.generator(logits, self.weight_of(method, rollout))}

    def weight_of(self, method: Distiller, rollout: Rollout) -> Tensor | None:
        """The weight of each sample, (B,)."""
        if self.level_weight == UniformWeight():
            return None
        return self.level_weight(method.student.process.ratio(rollout.t))

    def told(self, method: Distiller, part: MicroBatch, condition: Condition) -> Condition:
        """What the discriminator knows of samples that are made, or real, for ``condition``."""
        return condition

    def own_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        """What the discriminator learns."""
        made = part.rollouts.get(self.follows)  # before its turn the student's are not made here: without a graph
        rollout = (made or method.rollout(part, self.role)).detach()
        x0 = method.real_samples(part, rollout)
        if x0 is None:
            raise UserError("The GAN extra needs real samples; the data module gives none ('x0' is missing).")
        at_real = part.draws.scoped("critic/gan/real")
        known = self.told(method, part, part.condition)
        judged = [
            (x0, known, at_real),
            (rollout.x0, self.told(method, part, rollout.condition), part.draws.scoped("critic/gan/fake")),
        ]
        if self.r1_weight > 0:
            move = part.draws.scoped("critic/gan/r1").normal("noise", x0.shape[1:], x0.dtype)
            judged.append((x0 + self.r1_noise * move, known, at_real))
        penalised = self.r1_gamma > 0 and part.draws.step % self.r1_interval == 0
        real, fake, *moved = self.logits(method, *judged)
        weight = self.weight_of(method, rollout)
        losses = {"gan": self.discriminator_weight * self.objective.discriminator(real, fake, weight)}
        if moved:
            losses["r1"] = self.discriminator_weight * self.r1_weight * smoothness_penalty(real, *moved)
        if penalised:
            losses["r1_exact"] = self.r1_gamma * self.r1_interval * self.slope_at_real_samples(method, part, at_real)
        return losses

    def slope_at_real_samples(self, method: Distiller, part: MicroBatch, draws: Draws) -> Tensor:
        """``1/2 mean |grad_x D(x)|^2`` of the sum of the heads, at the real samples and the noise of ``draws``."""
        real_x0 = method.real_samples(part)
        assert real_x0 is not None  # own_losses
        # Validation runs without gradients, but this is one; fused attention has no second derivative.
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x0 = real_x0.clone().requires_grad_()
            (logits,) = self.logits(method, (x0, self.told(method, part, part.condition), draws))
            return gradient_penalty(logits.sum(1), x0)
