"""SharedEncoder: a discriminator without parameters of its own, on the critic's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import concatenate
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.objectives.adversarial import NonSaturating

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch
    from fastgen.distiller.score_term import ScoreTerm


class SharedEncoder(GAN):
    """SiDA's discriminator (Zhou et al. 2024, arXiv 2410.14919; github.com/mingyuanzhou/SiD, branch sida).

    The critic's encoder is the discriminator: logits are the mean over channels of its narrowest features, a map of
    them per sample. It learns with the critic, at the levels and under the noise at which the critic denoises, and the
    real samples get the same noise as the student's: ``[mean softplus(-D(y_t)) + mean softplus(D(x_t))] / 2``.
    The student's term is at the samples whose scores are compared and has the size of a sample and the scale that the
    method's form gives it, SiD's ``1 / mean |x - mu_real|`` or a weight of the noise level:
    ``mean_B scale D mean softplus(-D(x_t))`` for D elements, logits within ``limit``.

    Differs from the code: there the mean over the batch of the logits' losses is multiplied by each sample's scale (by
    EDM's weight of its level in the discriminator's loss), so that micro-batches would not add up to a batch. Here each
    sample has its own scale, as in the authors' later code (SiD-DiT, arXiv 2509.25127), and ``discriminator_weight`` is
    that weight's mean.

    Args:
        weight: Factor of the student's loss.
        discriminator_weight: Factor of the discriminator's loss; 200 is the mean of EDM's weight over SiD's law of the
            critic's levels, SiD-DiT has the number of elements. Beside it the critic's
            error is summed over a sample: with few elements it needs to be small, or the critic forgets to denoise.
        start: Student update from which the discriminator learns.
        student_start: Student update from which the student learns from it.
        layer: Module path of the features; ``bottleneck`` is where the network is narrowest.
        limit: Bound of the logits in the student's term.
    """

    def __init__(
        self,
        weight: float = 5e-3,
        discriminator_weight: float = 200.0,
        start: int = 0,
        student_start: int = 0,
        layer: str = "bottleneck",
        limit: float = 10.0,
    ) -> None:
        checks.whole(self, 0, student_start=student_start)
        checks.positive(self, limit=limit)
        super().__init__(weight, discriminator_weight, start, layer=layer, at_scores=True)
        self.student_start = student_start
        self.limit = limit

    def build(self, method: Distiller) -> None:
        if method.score_term() is None:
            raise UserError(f"SharedEncoder needs a critic and its scores, which {type(method).__name__} has not.")
        self.follows = self.role
        self.layers = self.layers or [self.network(method).feature_path]
        self.heads = nn.ModuleList()

    def watching(
        self, term: ScoreTerm, part: MicroBatch, x_t: Tensor, role: str
    ) -> dict[nn.Module, Callable[[Denoiser], Denoiser]]:
        """In the critic's turn, too, unless it denoises without a condition that its features are to know."""
        if role == "student" or term is not term.method.score_term():
            return super().watching(term, part, x_t, role)
        told = term.guidance.critic_training != 0.0 and term.guidance.condition_dropout == 0.0
        return self.watching_features(term.method, part, x_t) if told else {}

    def read(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, places): the mean over channels of maps (B, C, H, W), tokens (B, L, C) or vectors (B, C)."""
        (feature,) = (features[layer] for layer in self.layers or [])
        return feature.mean(1).flatten(1) if feature.ndim > 3 else feature.mean(-1).reshape(len(feature), -1)

    def student_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        if method.student_updates < self.student_start:
            return {}
        logits = self.logits_at_scores(method, part).clamp(-self.limit, self.limit)
        term = self.term(method)
        x = term.score_inputs(part).rollout.x0
        scale = term.form.scale_of(x, term.comparison(part).real)
        return {"gan": self.weight * x[0].numel() * (F.softplus(-logits).mean(1) * scale).mean()}

    def own_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        """Real and student's samples under the critic's own noise; the latter's features are those of its denoising."""
        if part.x0 is None:
            raise UserError("SharedEncoder needs real samples; the data module gives none ('x0' is missing).")
        inputs, process = part.denoised[self.term(method).critic_role], method.student.process
        real = process.add_noise(part.x0, inputs.noise, inputs.t)
        if features := part.features.get(self):
            at_fake, at_real = self.read(features), self.judge(method, real, inputs.t, part.condition)
        else:
            both = concatenate([part.condition, inputs.rollout.condition])
            logits = self.judge(method, torch.cat([real, inputs.x_t]), inputs.t.repeat(2), both)
            at_real, at_fake = logits.split(len(real))
        return {"gan": 0.5 * self.discriminator_weight * NonSaturating().discriminator(at_real, at_fake)}

    def term(self, method: Distiller) -> ScoreTerm:
        """Who compares the scores."""
        term = method.score_term()
        assert term is not None  # build
        return term
