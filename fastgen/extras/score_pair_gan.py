"""ScorePairGAN: a discriminator that tells the teacher's step from the critic's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.guided import GuidedPrediction
from fastgen.distiller.score_term import ScoreTerm
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.objectives.adversarial import AdversarialLoss, Hinge
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.scores import ScoreInputs

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch

LOWEST = 5e-3
"""Position of the cleanest level at which features are read; no network is called at the clean end."""


class ScorePairGAN(GAN):
    """Adversarial distribution matching: the score difference, judged instead of used as a direction.

    From the student's sample under noise, teacher and critic each take one deterministic step to a cleaner level. Heads
    on the frozen teacher's features there tell the teacher's point (real) from the critic's (fake); the student learns
    to make the critic's point look like the teacher's, by a gradient through the critic's step (Lu et al. 2025, ADM,
    arXiv 2507.18569). Real data are not used. It needs a method with a critic.

    Args:
        weight: Factor of the student's loss.
        discriminator_weight: Factor of the discriminator's loss.
        start: Student update from which all terms are active.
        step: Length of the step, as a share of the levels that networks are trained at: 1/64.
        layer: Module paths of the teacher's features, with a head each; ``bottleneck`` is where it is narrowest.
        width: Channels of the heads; ``features`` for as many as the features have.
        optimizer: Builds the discriminator's optimizer.
        objective: The two losses of the logits.
    """

    def __init__(
        self,
        weight: float = 1.0,
        discriminator_weight: float = 1.0,
        start: int = 0,
        step: float = 1.0 / 64.0,
        layer: str | list[str] = "bottleneck",
        width: int | Literal["features"] = "features",
        optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, beta1=0.0),
        objective: AdversarialLoss = Hinge(),
    ) -> None:
        checks.between(self, 0.0, 1.0, "()", step=step)
        super().__init__(
            weight=weight,
            discriminator_weight=discriminator_weight,
            start=start,
            features="teacher",
            layer=layer,
            width=width,
            optimizer=optimizer,
            objective=objective,
        )
        self.step = step

    def build(self, method: Distiller) -> None:
        if method.score_term() is None:
            raise UserError(f"ScorePairGAN compares a teacher with a critic, which {type(method).__name__} has not.")
        super().build(method)

    def stepped(self, method: Distiller, inputs: ScoreInputs, prediction: GuidedPrediction) -> Tensor:
        """Logits (B, heads) of where a prediction leads to."""
        process = method.student.process
        s = process.position((process.fraction(inputs.t) - self.step).clamp(min=LOWEST))
        return self.judge(method, process.jump(prediction, s), s, inputs.rollout.condition)

    def student_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        term = method.score_term()
        assert term is not None  # build
        inputs = term.score_inputs(part)
        fake = self.stepped(method, inputs, term.critic_scores(part, inputs))
        return {"gan": self.weight * self.objective.generator(fake)}

    def own_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        term = method.score_term()
        assert isinstance(term, ScoreTerm)
        made = part.rollouts.get(self.follows)  # before its turn the student's are not made here: without a graph
        rollout = (made or method.rollout(part, self.role)).detach()
        draws = part.draws.scoped("critic/gan")
        inputs = term.comparing()(method.student.process, rollout, draws)
        with torch.no_grad():
            real, fake = term.teacher_scores(part, inputs), term.critic_scores(part, inputs)
        logits = [self.stepped(method, inputs, prediction) for prediction in (real, fake)]
        return {"gan": self.discriminator_weight * self.objective.discriminator(*logits)}
