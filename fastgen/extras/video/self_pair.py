"""SelfPair: clips of n calls are told from those of n + 1, by a head for each n."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fastgen import checks
from fastgen.denoisers.wrappers.features import DiscriminatorHead, feature_shapes, tap
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import ChunkSampler
from fastgen.times import TimeLaw, UniformTime

if TYPE_CHECKING:
    from fastgen.denoisers.base import Denoiser
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class SelfPair(Extra):
    """Adversarial self-distillation: the student's clips of n calls learn to pass for its own of n + 1 calls.

    Yang et al. 2025, arXiv 2511.01419 (ICLR 2026; no code). ``D_n`` is a head for n on features of the frozen critic:
    it learns ``softplus(D_n(x) - D_n(y))`` with x of n calls and y of n + 1, both of other noise and noised to drawn
    levels; the student ``weight softplus(D_n(y) - D_n(x))``, no gradient runs through y. Both sides are regularised by
    small changes of their inputs (approximate R1 and R2). Equal clips have the logit 0 and give the heads no gradient.

    Needs rollouts that stop at their last call, of drawn numbers (``MixedChunkSampler`` with ``stop: last``). Not
    verified: the weight; layers and regularisation are from a second note of the paper.

    Args:
        weight: Factor of the student's term.
        start: Student update from which it is active.
        heads_weight: Factor of what the heads learn, beside the critic's denoising.
        steps: Largest n.
        time: Law of the noise levels.
        layer: Layers of the critic that are read; ``bottleneck`` is its own choice.
        penalty: Factor of the regularisation.
        move: Standard deviation of the changes.
    """

    def __init__(
        self,
        weight: float = 0.03,
        start: int = 0,
        heads_weight: float = 1.0,
        steps: int = 4,
        time: TimeLaw = UniformTime(),
        layer: str | list[str] = "bottleneck",
        penalty: float = 600.0,
        move: float = 0.05,
    ) -> None:
        checks.not_negative(self, heads_weight=heads_weight, penalty=penalty, move=move)
        checks.whole(self, 1, checks.MOST_STEPS, steps=steps)
        checks.not_empty(self, layer=layer)
        super().__init__(weight, start)
        self.heads_weight = heads_weight
        self.steps = steps
        self.time = time
        self.layers = None if layer == "bottleneck" else [layer] if isinstance(layer, str) else layer
        self.penalty = penalty
        self.move = move

    def build(self, method: Distiller) -> None:
        if "critic" not in method.built_roles:
            raise UserError(f"SelfPair reads features of a critic, which {type(method).__name__} does not have.")
        network: Denoiser = method.critic  # type: ignore[assignment]
        self.layers = self.layers or [network.feature_path]
        shapes = feature_shapes(network, self.layers)
        self.heads = nn.ModuleList(
            nn.ModuleList(DiscriminatorHead(shape) for shape in shapes) for _ in range(self.steps)
        )

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"critic": [self.heads]}

    def logits(self, method: Distiller, x0: Tensor, rollout: Rollout, number: int, draws: Draws) -> Tensor:
        """D_n (B,) of clips x0 (B, ...) under noise; their features know no gradient of the critic's weights."""
        process = method.student.process
        t = self.time.sample(draws, process)
        x_t = process.add_noise(x0, draws.normal("noise", x0.shape[1:], x0.dtype), t)
        network: Denoiser = method.critic  # type: ignore[assignment]
        with torch.set_grad_enabled(x0.requires_grad), tap(network.backbone, self.layers or [], "left out") as features:
            on_process(network, process)(x_t, t, rollout.condition)
        heads = self.heads[min(number, self.steps) - 1]
        read = [head(features[name]) for name, head in zip(self.layers or [], heads, strict=True)]  # type: ignore[call-overload]
        return torch.stack(read, 1).mean(1)

    @torch.no_grad()
    def longer(self, method: Distiller, part: MicroBatch, role: str, number: int, dtype: torch.dtype) -> Rollout:
        """Clips of one call more, of other noise."""
        sampler = method.rollout_sampler()
        if not isinstance(sampler, ChunkSampler) or sampler.stop != "last":
            raise UserError("SelfPair needs a MixedChunkSampler with stop: last, whose rollouts have all their calls.")
        own = {field.name: getattr(sampler, field.name) for field in fields(ChunkSampler)}
        draws = part.draws.scoped(f"{role}/longer")
        told = method.student_condition(part.condition, draws)
        more = ChunkSampler(**{**own, "times": "grid", "steps": number + 1})
        return more.rollout(method.student, draws, told, dtype)

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role not in ("student", "critic"):
            return {}
        rollout = method.rollout(part, role)
        number = int(torch.as_tensor(rollout.step).max()) + 1
        longer = self.longer(method, part, role, number, rollout.x0.dtype)
        at = part.draws.scoped(f"{role}/pair")
        x = self.logits(method, rollout.x0, rollout, number, at.scoped("x"))
        y = self.logits(method, longer.x0, rollout, number, at.scoped("y"))
        if role == "student":
            return {"self_pair": self.weight * softplus(y.detach() - x).mean()}
        losses = {"self_pair": self.heads_weight * softplus(x - y).mean()}
        if self.penalty:
            moved = torch.zeros((), dtype=x.dtype, device=x.device)
            for x0, logit, name in ((rollout.x0, x, "x"), (longer.x0, y, "y")):
                change = self.move * at.scoped(name).normal("move", x0.shape[1:], x0.dtype)
                again = self.logits(method, x0.detach() + change, rollout, number, at.scoped(name))
                moved = moved + (again - logit).square().mean()
            losses["self_pair_penalty"] = self.heads_weight * self.penalty * moved
        return losses
