"""DP-DMD as a preset, a form and an extra: the whole chain learns, the first step only keeps to the teacher's path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from every_method import fit
from torch import Tensor, nn
from toys import CLASSES, build, network

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.exact.gaussians import MixtureDenoiser
from fastgen.denoisers.wrappers.guided import conditional_pair
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras import Extra
from fastgen.methods import DMD2, Distiller
from fastgen.objectives.distribution_matching import normalised, pseudo_loss
from fastgen.objectives.score_forms import ScoreForm, weighted
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import Prediction, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.sampling.solvers import Euler, Solver
from fastgen.times import SharedLevel, TimeLaw, UniformTime

pytestmark = pytest.mark.filterwarnings("ignore")
FLOW = RectifiedFlow()


@dataclass(frozen=True)
class NoisyGapForm(ScoreForm):
    """DMD's with the normaliser ``mean |x_t - mu_real|``: the noisy sample where DMD has the clean one."""

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        return pseudo_loss(x, weighted(normalised(fake.x0 - real.x0, real.x_t, real.x0), weight))


class FirstStepAnchor(Extra):
    """The student's first velocity leads where the teacher's path from the same noise is after some steps.

    ``weight mean (v(z, 1) - (z - z_k) / (1 - t_k))^2`` on rectified flow.

    Args:
        solver: The teacher's grid and guidance.
        anchor: Number k of its steps.
        weight: Factor of the term.
    """

    def __init__(self, solver: Solver = Euler(30, 3.5), anchor: int = 10, weight: float = 0.05) -> None:
        super().__init__(weight)
        self.solver, self.anchor = solver, anchor

    @torch.no_grad()
    def target(self, teacher: Denoiser, z: Tensor, condition: Condition) -> Tensor:
        """The velocity of the straight line to the anchor, (B, ...)."""
        times = [*FLOW.solver_grid(self.solver.steps), FLOW.t_clean][: self.anchor + 1]
        x = z
        for t, s in pairwise(torch.full((len(z),), time, dtype=torch.float64) for time in times):
            x = self.solver.step(teacher, x, t, s, condition)
        return (z - x) / (times[0] - times[-1])

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        first, condition = method.rollout(part, "student").trajectory[0], part.condition
        velocity = method.student(first.x_t, first.t, condition).velocity  # the rollout's own has no graph
        assert method.teacher is not None
        return {"anchor": self.weight * (velocity - self.target(method.teacher, first.x_t, condition)).square().mean()}


class DPDMD(DMD2):
    """Diversity-preserved DMD (arXiv 2602.03139; github.com/Multimedia-Analytics-Laboratory/dpdmd).

    DMD at the end of a deterministic chain whose steps after the first all learn, at one noise level for the batch; the
    first step learns from the extra alone.
    """

    def __init__(
        self,
        sampler: Sampler = JumpSampler(steps=4, stop="last", gradient_calls=3),
        form: ScoreForm = NoisyGapForm(),
        renoise_time: TimeLaw = SharedLevel(UniformTime(0.0, 1.0)),
        critic_time: TimeLaw = SharedLevel(UniformTime(0.0, 1.0)),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=3.5),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, exclusive=True),
        extras: Sequence[Extra] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler,
            form=form,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            extras=[FirstStepAnchor()] if extras is None else extras,
            **kwargs,
        )


class Scaled(Denoiser):
    """``x0 = scale x_t``."""

    def __init__(self, scale: float) -> None:
        super().__init__(FLOW, "x0", (2,))
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.scale * x_t


def law() -> MixtureDenoiser:
    return MixtureDenoiser(FLOW, [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], 0.3, classes=[0, 1, 2])


def method_and_part(**kwargs: Any) -> tuple[DPDMD, MicroBatch]:
    method = DPDMD(teacher=law, student=partial(Scaled, 0.3), critic=partial(Scaled, 0.2), **kwargs)
    method.configure_model()
    draws = Draws(1, range(6), "train", step=2)
    return method, MicroBatch(None, {"label": torch.arange(6) % CLASSES}, draws)


def test_the_gradient_runs_through_all_steps_but_the_first():
    """With x0 = a x a step multiplies by ``s/t + a (1 - s/t)``; a counts in steps 2 to 4, and at once in step 1."""
    method, part = method_and_part()
    losses = method.losses("student", part)
    a = method.student.scale
    found = {name: torch.autograd.grad(loss, a, retain_graph=True)[0] for name, loss in losses.items()}
    inputs, both = part.score_inputs["critic"], part.comparisons["critic"]
    assert len(inputs.t.unique()) == 1, "one level for the batch"

    z = part.draws.scoped("student/rollout").normal("noise", (2,), torch.float64)
    factors = [s / t + a.detach() * (1 - s / t) for t, s in pairwise([1.0, 0.75, 0.5, 0.25, 0.0])]
    chain = torch.stack(factors).prod()
    torch.testing.assert_close(inputs.rollout.x0.detach(), chain * z)
    ratios = [s / t for t, s in pairwise([0.75, 0.5, 0.25, 0.0])]
    slope = chain * sum((1 - r) / f for r, f in zip(ratios, factors[1:], strict=True)) * z
    x_t, t = inputs.x_t.detach(), inputs.t
    cond, uncond = conditional_pair(law(), x_t, t, part.condition)
    real = uncond.x0 + 3.5 * (cond.x0 - uncond.x0)
    torch.testing.assert_close(both.real.x0, real)
    gradient = (0.2 * x_t - real) / (x_t - real).abs().mean(1, keepdim=True)
    torch.testing.assert_close(found["match"], (gradient * slope).mean(), rtol=1e-9, atol=0)

    anchor = method.extras[0].target(law(), z, part.condition)
    expected = 0.05 * (2 * ((1 - a.detach()) * z - anchor) * -z).mean()
    torch.testing.assert_close(found["anchor"], expected, rtol=1e-9, atol=0)
    assert losses.keys() == {"match", "anchor"} and all(value.abs() > 1e-4 for value in found.values())


def test_the_anchor_is_the_velocity_of_the_teacher_s_path():
    z, condition = torch.randn(6, 2).double(), {"label": torch.arange(6) % CLASSES}
    whole = FirstStepAnchor(Euler(7, 2.0), anchor=7).target(law(), z, condition)
    torch.testing.assert_close(whole, z - Euler(7, 2.0).solve(law(), z, condition))
    one = FirstStepAnchor(Euler(7, 2.0), anchor=1).target(law(), z, condition)
    cond, uncond = conditional_pair(law(), z, torch.ones(6).double(), condition)
    torch.testing.assert_close(one, uncond.velocity + 2.0 * (cond.velocity - uncond.velocity))
    point = partial(MixtureDenoiser, FLOW, [[0.4, -0.2]], 0.0)  # the velocity at (z, 1) leads straight to it
    for k in (1, 3, 7):
        torch.testing.assert_close(FirstStepAnchor(Euler(7), k).target(point(), z, {}), z - z.new_tensor([0.4, -0.2]))


def test_dp_dmd_trains_without_data():
    networks = {
        name: partial(network, seed, process=FLOW) for seed, name in enumerate(("teacher", "student", "critic"))
    }
    fit(build(DPDMD, **networks), 7)
