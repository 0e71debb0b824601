"""pi-Flow: the student's output is a policy, not a prediction."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.denoisers.wrappers.policies import GMFlow, Policy, PolicyFamily, shifted, unshifted
from fastgen.denoisers.wrappers.policy import FLOW, PolicyDenoiser, flow_time
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.optimizers import BetasAdamW
from fastgen.randomness import Draws
from fastgen.sampling.samplers import PolicySampler
from fastgen.shapes import expand

EARLIEST = 1e-3
"""The teacher is asked no nearer than this to the end of a segment."""


class PiFlow(TrajectoryDistiller):
    """pi-Flow by imitation distillation (Chen et al. 2025, arXiv 2510.14974, algorithm 1; github.com/Lakonik/piFlow).

    One call gives a policy for a segment; following it takes many substeps but no network. The policy learns where it
    leads itself: the student's policy, cut from the graph, is followed to ``states`` random times of the segment, the
    teacher is asked for its velocity there, and the policy's mean velocity over a short window is regressed on it. At
    first the teacher leads between these times; its share falls to zero over ``mixing_updates``.

    Segments are the sampler's. With real samples in the batch a segment begins at a noised one; without, at the end of
    the student's own earlier segments, of which one is drawn per update (the paper updates after each in turn).
    Everything happens in the time of rectified flow, before the policy's shift. Not here: fresh noise between segments,
    an interval of the teacher's guidance. The teacher's stretches are equal, those of the code random.

    The loss is ``loss_scale / 2`` times the mean squared error, as in the code.

    Args:
        policy: What policies are made of.
        head: Module path of the network's last layer.
        states: Times of a segment at which the teacher is asked; 4 on FLUX.1.
        dropout: Probability with which the policy that is followed without gradient lacks a component, so that states
            beside its path are seen; 0.05 on ImageNet, 0.1 on FLUX.1 and Qwen-Image.
        window: Length over which the policy's velocity is averaged.
        mixing_updates: Student updates until the student alone leads.
        loss_scale: Factor of half the mean squared error.
        sampler: Where segments begin, and in how many substeps their policies are followed.
    """

    teacher: Denoiser
    student: PolicyDenoiser
    sampler: PolicySampler

    def __init__(
        self,
        policy: PolicyFamily = GMFlow(),
        head: str = "head",
        states: int = 2,
        dropout: float = 0.0,
        window: float = 3 / 128,
        mixing_updates: int = 2000,
        loss_scale: float = 30.0,
        sampler: PolicySampler = PolicySampler(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-5, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, states=states)
        checks.whole(self, 0, mixing_updates=mixing_updates)
        checks.fraction(self, window=window)
        checks.between(self, 0.0, 1.0, "[)", dropout=dropout)
        checks.positive(self, loss_scale=loss_scale)
        checks.kind(self, PolicySampler, sampler=sampler)
        super().__init__(sampler=sampler, student_optimizer=student_optimizer, **kwargs)
        if dropout and not policy.mixes:
            raise UserError(f"{type(policy).__name__} mixes no components that could be dropped; set dropout to 0.")
        self.policy = policy
        self.dropout = dropout
        self.head, self.states, self.window = head, states, window
        self.mixing_updates, self.loss_scale = mixing_updates, loss_scale

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("PiFlow needs a teacher to imitate; give model.init_args.teacher.")

    def prepare_student(self) -> None:
        if not isinstance(self.student, PolicyDenoiser):
            self.student = PolicyDenoiser(self.student, self.policy, self.head)

    def teacher_share(self) -> float:
        """The part of a segment in which the teacher leads: 1 at first, 0 from ``mixing_updates`` on."""
        return max(0.0, 1.0 - self.student_updates / self.mixing_updates) if self.mixing_updates else 0.0

    def velocity_of_teacher(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The guided teacher's velocity in rectified flow."""
        teacher = on_process(self.teacher, FLOW)
        return guided(teacher, x, time, condition, self.solver.guidance).velocity

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Imitate the teacher at states that the policy reaches itself."""
        process, draws, edges = self.student.process, part.draws.scoped("student"), self.sampler.edges(self.student)
        segment = part.draws.shared_integer("segment", len(edges) - 1)
        noise = draws.normal("noise", self.student.sample_shape, self.noise_dtype())
        t = noise.new_full((len(noise),), edges[segment], dtype=torch.float64)
        s = torch.full_like(t, edges[segment + 1])
        if part.x0 is None:
            with torch.no_grad():
                x_t = self.sampler.chain(self.student, noise, part.condition, edges[: segment + 1])
        else:
            x_t = process.add_noise(part.x0, noise, t)
        end = flow_time(process, s)
        policy = self.student.policy(x_t, t, part.condition, end)
        return {"imitation": self.loss_scale * self.imitation(policy, end, part.condition, draws)}

    def thinned(self, policy: Policy, draws: Draws) -> Policy:
        """The policy without some of its components, others for every sample."""
        if not self.dropout:
            return policy
        drawn = [draws.uniform(f"drop{k}") for k in range(policy.components)]
        return policy.without(torch.stack(drawn, dim=1) < self.dropout)

    def imitation(self, policy: Policy, end: Tensor, condition: Condition, draws: Draws) -> Tensor:
        """Half the mean squared difference of policy's and teacher's velocities on the policy's own path."""
        frozen, share = self.thinned(policy.detach(), draws), self.teacher_share()
        x, time, shift = frozen.x_source, policy.t_source, self.policy.shift
        source = unshifted(time, shift)
        length = source - unshifted(end, shift)
        cuts = torch.stack([draws.uniform(f"cut{i}") for i in range(self.states)], dim=1).sort(1).values
        whole = float(length[0])  # the same for all: segments are
        errors = []
        for i in range(self.states):
            asked = shifted(source - length * ((1.0 - share) * cuts[:, i] + share * i / self.states), shift)
            asked = torch.minimum(torch.maximum(asked, end + EARLIEST), time)
            left = torch.maximum(shifted(unshifted(asked, shift) - length * share / self.states, shift), end)
            with torch.no_grad():
                x, _ = frozen.follow(x, time, asked, self.sampler.substeps_of((1.0 - share) * whole))
                target = self.velocity_of_teacher(x, asked, condition).to(x.dtype)
            until = torch.maximum(shifted((unshifted(left, shift) - self.window).clamp(min=0.0), shift), end)
            stretch = self.sampler.substeps_of(share * whole / self.states + self.window)
            _, velocity = policy.follow(x, asked, until, stretch)
            errors.append(0.5 * (velocity - target).square().mean())
            x, time = x - expand(asked - left, x) * target, left
        return torch.stack(errors).mean()
