"""GAN: a discriminator on a denoiser's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.features import DiscriminatorHead, tap
from fastgen.errors import UserError
from fastgen.extras.base import Extra
from fastgen.objectives.adversarial import discriminator_loss, generator_loss
from fastgen.randomness import Draws
from fastgen.times import TimeLaw, UniformTime

if TYPE_CHECKING:
    from fastgen.methods.base import Distiller
    from fastgen.methods.batch import MicroBatch


class GAN(Extra):
    """Diffusion GAN on features of the critic or the teacher (Yin et al. 2024, DMD2, arXiv 2405.14867, section 4.3).

    Real and fake samples are noised at independent times; a small head on the features gives the logit. The critic's
    optimizer trains the head, and with ``features="critic"`` the critic itself.

    Args:
        weight: Factor of the student's loss, ``softplus(-D(fake))``.
        critic_weight: Factor of the discriminator's loss. On the critic's features, more than about 1e-2 destroys the
            critic.
        start: Student update from which both terms are active.
        features: Whose features are read. The teacher's stay frozen.
        layer: Module path of the features; default the network's bottleneck.
        time: Law of the noise levels; default uniform over all.
        width: Channels of the head; default those of the features.
    """

    def __init__(
        self,
        weight: float = 3e-3,
        critic_weight: float = 1e-2,
        start: int = 0,
        features: Literal["critic", "teacher"] = "critic",
        layer: str | None = None,
        time: TimeLaw | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(weight, start)
        self.critic_weight = critic_weight
        self.features = features
        self.layer = layer
        self.time = time or UniformTime(0.0, 1.0)
        self.width = width

    def build(self, method: Distiller) -> None:
        if "critic" not in method.roles():
            raise UserError(f"The GAN extra is trained with the critic, which {type(method).__name__} does not have.")
        network = getattr(method, self.features, None)
        if network is None:
            raise UserError(f"The GAN extra reads features of the {self.features}, which this method does not have.")
        layer = self.layer or network.feature_path
        parameter = next(network.parameters())
        with torch.no_grad(), tap(network, [layer]) as features:
            x = torch.zeros(1, *network.sample_shape, device=parameter.device)
            t = torch.full((1,), 0.5 * network.process.t_max, dtype=torch.float64, device=parameter.device)
            network(x, t, network.example_condition(1, parameter.device))
        self.head = DiscriminatorHead(tuple(features[layer].shape[1:]), width=self.width)

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"critic": [self.head]}

    def logits(self, method: Distiller, x0: Tensor, condition: Condition, draws: Draws) -> Tensor:
        """D at a noised ``x0`` (B, ...); positive means real."""
        network = getattr(method, self.features)
        layer = self.layer or network.feature_path
        t = self.time.sample(draws, network.process)
        x_t = network.process.add_noise(x0, draws.normal("noise", x0.shape[1:], x0.dtype), t)
        with tap(network, [layer]) as features:
            network(x_t, t, condition)
        return self.head(features[layer])

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role == "student":
            rollout = part.memory["student"]
            logits = self.logits(method, rollout.x0, rollout.condition, part.draws.scoped("student/gan"))
            return {"gan": self.weight * generator_loss(logits)}
        if role != "critic":
            return {}
        if part.x0 is None:
            raise UserError("The GAN extra needs real samples; the data module gives none ('x0' is missing).")
        rollout = part.memory["critic"]
        real = self.logits(method, part.x0, part.condition, part.draws.scoped("critic/gan/real"))
        fake = self.logits(method, rollout.x0, rollout.condition, part.draws.scoped("critic/gan/fake"))
        return {"gan": self.critic_weight * discriminator_loss(real, fake)}
