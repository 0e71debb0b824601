"""Phased DMD: the sub-interval target in closed form, both losses by hand in fp64, and what each phase moves."""

from __future__ import annotations

from functools import partial
from typing import Any

import oracles
import pytest
import torch
from methods.test_closed_form import (
    COVARIANCE,
    CRITIC_COVARIANCE,
    CRITIC_MEAN,
    MEAN,
    Asked,
    Generator,
    TwoGaussians,
    by_process,
    micro_batch,
)
from torch import Tensor
from toys import StirredLoRA, ToyData, build, network, trainer

from fastgen.conditions import Guidance
from fastgen.denoisers.wrappers.experts import Experts
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods import DMD2, PhasedDMD
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.trajectory import sub_interval_truth
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, Prediction, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import PhasedSampler, RenoiseSampler
from fastgen.times import UniformTime

pytestmark = pytest.mark.filterwarnings("ignore")
TEACHER = [(MEAN, COVARIANCE), (MEAN - 0.4, 1.3 * COVARIANCE)]
CRITICS = [[(CRITIC_MEAN, CRITIC_COVARIANCE)] * 2, [(CRITIC_MEAN + 0.3, 0.6 * CRITIC_COVARIANCE)] * 2]


def numbers(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(process: Process, *values: float) -> Tensor:
    return process.time(torch.tensor(values, dtype=torch.float64))


# ---------------------------------------------------------------------- the target


def test_on_the_flow_it_is_the_velocity_of_the_paper():
    flow, x_s, noise = RectifiedFlow(), numbers(4), numbers(4, 1)
    s, t = (torch.tensor(v, dtype=torch.float64) for v in ([0.1, 0.3, 0.5, 0.7], [0.4, 0.35, 0.9, 0.99]))
    x0, effective = sub_interval_truth(flow, x_s, s, t, noise)
    alpha_s, alpha = 1 - s, 1 - t
    between = (t**2 - (alpha / alpha_s * s) ** 2).sqrt()
    slope = (alpha_s**2 * t + alpha * s**2) / (alpha_s**2 * between)
    torch.testing.assert_close(effective - x0, slope[:, None] * noise - x_s / alpha_s[:, None], rtol=1e-12, atol=1e-12)
    code = (t + (1 - t) * s**2 / (1 - s) ** 2) / between
    torch.testing.assert_close(slope, code, rtol=1e-12, atol=0.0)


@by_process
def test_from_data_it_is_plain_denoising(process: Process):
    """Specification, part III, number 10: with s = 0 the target is the noise minus the datum."""
    t, x, noise = levels(process, 0.1, 1.0, 9.0), numbers(3), numbers(3, 1)
    x0, effective = sub_interval_truth(process, x, torch.full_like(t, process.t_clean), t, noise)
    torch.testing.assert_close(x0, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(effective, noise, rtol=1e-12, atol=1e-12)


@by_process
def test_its_mean_is_the_denoiser_and_that_of_the_naive_target_is_not(process: Process):
    """x_s of a Gaussian: the target is linear in (x_s, noise), whose means given x_t are known."""
    s, t = levels(process, 0.3, 0.3, 1.0, 4.0), levels(process, 0.4, 3.0, 5.0, 30.0)
    x_t, eye = numbers(4), torch.eye(3, dtype=torch.float64)
    (alpha_s, sigma_s), (alpha, sigma) = process.coefficients(s), process.coefficients(t)
    scale, between = process.kernel(s, t)
    noise, x_s = torch.zeros_like(x_t), torch.zeros_like(x_t)
    for i in range(4):
        before = alpha_s[i] ** 2 * COVARIANCE + sigma_s[i] ** 2 * eye
        offset = torch.linalg.solve(scale[i] ** 2 * before + between[i] ** 2 * eye, x_t[i] - alpha[i] * MEAN)
        x_s[i], noise[i] = alpha_s[i] * MEAN + scale[i] * before @ offset, between[i] * offset
    x0, effective = sub_interval_truth(process, x_s, s, t, noise)
    exact = oracles.gaussian_x0(MEAN, COVARIANCE, x_t, alpha, sigma)
    torch.testing.assert_close(x0, exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(effective, (x_t - alpha[:, None] * exact) / sigma[:, None], rtol=1e-9, atol=1e-9)
    assert (x_s / alpha_s[:, None] - exact).abs().max() > 0.05, "x_s as the datum would be biased"


def test_factors_multiply_the_samples_of_a_denoising_loss():
    t, x, x0, noise = levels(EDM(), 0.5, 2.0), numbers(2), numbers(2, 1), numbers(2, 2)
    prediction, factor = Prediction(EDM(), x, t, numbers(2, 3), "x0"), torch.tensor([0.3, 2.0], dtype=torch.float64)
    for reduction in ("mean", "sum"):
        loss = DenoisingLoss("noise", UniformWeight(), reduction)
        rows = [slice(i, i + 1) for i in range(2)]
        each = [loss(Prediction(EDM(), x[i], t[i], prediction.value[i], "x0"), x0[i], noise[i]) for i in rows]
        expected = (0.3 * each[0] + 2.0 * each[1]) / 2
        torch.testing.assert_close(loss(prediction, x0, noise, factor), expected, rtol=1e-12, atol=0.0)


# ---------------------------------------------------------------------- losses


def made(process: Process, phases: int = 2, **kwargs: object) -> PhasedDMD:
    """Four calls of generators that differ by phase, and critics that do."""
    times = [fraction * process.t_max for fraction in (0.9, 0.7, 0.5, 0.3)]
    sampler = PhasedSampler(times, phases=phases)

    def critic() -> Experts:
        experts = [TwoGaussians(process, law) for law in CRITICS[:phases]]
        return Experts(experts, sampler.boundaries(experts[0]))

    method = PhasedDMD(
        teacher=partial(TwoGaussians, process, TEACHER),
        critic=critic,
        student=partial(Generator, process),
        **{"sampler": sampler, "guidance": Guidance(teacher=3.5)} | kwargs,
    )
    method.configure_model()
    for index in range(phases):
        with torch.no_grad():
            method.student.expert(index).a.mul_(1.0 - 0.2 * index)
    return method


def labelled(count: int, step: int) -> MicroBatch:
    return micro_batch(count, {"label": torch.zeros(count, dtype=torch.int64)}, step)


@by_process
def test_the_student_by_hand(process: Process):
    """The chain to the anchor, the kernel, DMD2's gradient on x0 with the phase's critic; one expert moves."""
    seen = set()
    for step in range(12):
        method, part = made(process), labelled(8, step)
        method.enter(step % 2)
        asked = Asked(method.teacher)
        with method.only("student"):
            method.student_loss(part)["match"].backward()
        rollout, ((x_t, t),) = part.rollouts["student"], asked.calls
        phase, times = rollout.step // 2, [*method.sampler.schedule(method.student), process.t_clean]
        seen.add(rollout.step)
        x_t, t, end = x_t[:8], t[:8], times[2 * phase + 2]
        assert bool((rollout.t == times[rollout.step]).all() and (rollout.t_anchor == end).all())

        # By hand: jumps keep the noise (x - alpha x0) / sigma.
        draws = part.draws.scoped("rollout")
        at = [torch.full((8,), time, dtype=torch.float64) for time in times]
        x = process.start(draws.normal("noise", (3,), torch.float64), at[0])
        for i in range(rollout.step + 1):
            expert = method.student.expert(i // 2)
            z = x / process.start(torch.ones_like(x), at[i])
            x0 = (z @ expert.a.T + expert.b).detach()
            alpha, sigma = (c[:, None] for c in process.coefficients(at[i]))
            following = at[i + 1] if i < rollout.step else torch.full_like(at[0], end)
            a, b = (c[:, None] for c in process.coefficients(following))
            x = a * x0 + b * (x - alpha * x0) / sigma
        torch.testing.assert_close(rollout.anchor, x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rollout.x0, x0, rtol=1e-9, atol=1e-9)
        assert not rollout.anchor.requires_grad

        renoise = part.draws.scoped("student/renoise")
        scale, between = (c[:, None] for c in process.kernel(rollout.t_anchor, t))
        torch.testing.assert_close(
            x_t, scale * x + between * renoise.normal("noise", (3,), torch.float64), rtol=1e-9, atol=1e-9
        )
        low = max(process.fraction(rollout.t_anchor)[0].item(), 0.02)
        torch.testing.assert_close(process.fraction(t), low + (1 - low) * renoise.uniform("time"), rtol=1e-6, atol=1e-9)

        alpha, sigma = process.coefficients(t)
        cond, uncond = (oracles.gaussian_x0(*law, x_t, alpha, sigma) for law in TEACHER)
        fake = oracles.gaussian_x0(*CRITICS[phase][0], x_t, alpha, sigma)
        gradient = oracles.dmd_x_gradient(x0, uncond + 3.5 * (cond - uncond), fake)
        expert = method.student.expert(phase)
        expected = oracles.generator_gradient(gradient, z)
        for found, wanted in zip((expert.a.grad, expert.b.grad), expected, strict=True):
            assert (found - wanted).norm() < 1e-9 * wanted.norm()
        assert all(p.grad is None for p in method.student.expert(1 - phase).parameters())
    assert seen == {0, 1, 2, 3}


class Known(Generator):
    """A critic whose answer is the same everywhere: x0 = b."""

    def predict(self, x_t: Tensor, t: Tensor, condition: object, s: Tensor | None = None) -> Tensor:
        return self.b + 0.0 * x_t


@pytest.mark.parametrize("cap", [10.0, 1e9])
def test_the_critic_by_hand(cap: float):
    """``mean min(1, cap sigma^2) |psi - psi*|^2`` on the flow, value and gradient, each phase by its own network."""
    flow, seen = RectifiedFlow(), set()
    for step in range(6):
        sampler = PhasedSampler([0.9, 0.7, 0.5, 0.3])

        def critic(sampler: PhasedSampler = sampler) -> Experts:
            return Experts([Known(flow, b=CRITIC_MEAN), Known(flow, b=MEAN)], sampler.boundaries(Known(flow, b=MEAN)))

        teacher, student = partial(TwoGaussians, flow, TEACHER), partial(Generator, flow)
        method = PhasedDMD(teacher=teacher, critic=critic, student=student, sampler=sampler, weight_cap=cap)
        method.configure_model()
        method.enter(step % 2)
        part = labelled(16, step)
        with method.only("critic"):
            loss = method.critic_loss(part)["denoising"]
            loss.backward()
        rollout, draws = part.rollouts["critic"], part.draws.scoped("critic")
        phase, s = rollout.step // 2, rollout.t_anchor[0].item()
        seen.add(phase)
        low = max(s, 0.02)
        t, noise = low + (1 - low) * draws.uniform("time"), draws.normal("noise", (3,), torch.float64)
        between = (t**2 - ((1 - t) / (1 - s) * s) ** 2).sqrt()
        target = ((t + (1 - t) * s**2 / (1 - s) ** 2) / between)[:, None] * noise - rollout.anchor / (1 - s)
        x_t = ((1 - t) / (1 - s))[:, None] * rollout.anchor + between[:, None] * noise
        b = [CRITIC_MEAN, MEAN][phase]
        error = (x_t - b) / t[:, None] - target
        weight = (between**2 * (1 / between**2).clamp(max=cap))[:, None]
        torch.testing.assert_close(loss, (weight * error.square()).mean(), rtol=1e-9, atol=0.0)
        expected = (-2 * weight * error / t[:, None]).sum(0) / error.numel()
        torch.testing.assert_close(method.critic.expert(phase).b.grad, expected, rtol=1e-9, atol=1e-12)
        assert method.critic.expert(1 - phase).b.grad is None
    assert seen == {0, 1}


@by_process
def test_one_phase_of_one_call_is_dmd2(process: Process):
    """The anchor is data then: the same levels, gradient and critic."""
    same = {
        "teacher": partial(TwoGaussians, process, TEACHER),
        "critic": partial(TwoGaussians, process, CRITICS[0]),
        "student": partial(Generator, process),
        "renoise_time": UniformTime(0.1, 0.9),
        "critic_time": UniformTime(0.1, 0.9),
        "critic_objective": DenoisingLoss(),
        "schedule": UpdateSchedule(),
    }
    found = []
    for cls, sampler in ((PhasedDMD, PhasedSampler(steps=1, phases=1)), (DMD2, RenoiseSampler())):
        method = cls(sampler=sampler, **{"weight_cap": 1e9} if cls is PhasedDMD else {}, **same)
        method.configure_model()
        part = labelled(8, 0)
        with method.only("student"):
            method.student_loss(part)["match"].backward()
        found.append([*(p.grad for p in method.student.parameters()), method.critic_loss(part)["denoising"].detach()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- experts


def test_phases_get_copies_and_adapters_their_own_weights():
    method = build(PhasedDMD, student=StirredLoRA(rank=2), critic=CopyOfTeacher())
    method.configure_model()
    one, other = method.student.expert(0), method.student.expert(1)
    assert isinstance(one, AdaptedDenoiser) and one.base is other.base is method.teacher
    for index in range(2):
        mine = method.critic.expert(index).parameters()
        assert all(torch.equal(a, b) for a, b in zip(mine, method.teacher.parameters(), strict=True))
    method.have_stages([3, 6])
    trainer(30).fit(method, ToyData(batch_size=4))
    apart = [not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    assert all(apart), "every phase learned its own changes"


def moved_in(method: PhasedDMD, batches: int) -> list[list[int]]:
    """The phases of student and critic that move, update by update."""
    found: list[list[int]] = []
    original = method.update

    def update(role: str, parts: Any) -> None:
        experts = [getattr(method, role).expert(index) for index in range(2)]
        before = [[p.detach().clone() for p in expert.parameters()] for expert in experts]
        original(role, parts)
        for index, expert in enumerate(experts):
            if not all(map(torch.equal, expert.parameters(), before[index])):
                found.append([role, index])

    method.update = update
    trainer(batches).fit(method, ToyData(batch_size=4))
    return found


def test_phases_learn_one_after_the_other():
    """Phase by phase, with fresh optimizers and a critic that begins as it was given; earlier experts rest."""
    method = build(PhasedDMD, phase_updates=[2, 3], schedule=UpdateSchedule(2, reuse_rollout=True))
    method.configure_model()
    given = [p.detach().clone() for p in method.critic.expert(1).parameters()]
    states: list[int] = []
    original = method.begin_stage

    def begin_stage(stage: int) -> None:
        assert all(map(torch.equal, method.critic.expert(1).parameters(), given))
        original(stage)
        states.append(len(method.optimizer_of("student").state) + len(method.optimizer_of("critic").state))

    method.begin_stage = begin_stage
    found = moved_in(method, 10)
    phases = [phase for role, phase in found if role == "student"]
    assert phases == [0, 0, 1, 1, 1] and states == [0]
    assert [phase for role, phase in found if role == "critic"] == [0] * 3 + [1] * 7
    with pytest.raises(UserError, match="2 phases, but phase_updates"):
        build(PhasedDMD, phase_updates=[1, 2, 3])


def test_phases_may_take_turns():
    """ModelTC/LightX2V: from student update to student update; the critic updates before each are of its phase."""
    turns = UpdateSchedule(2, critic_first=False, reuse_rollout=True, student_start=1)
    found = moved_in(build(PhasedDMD, phases="alternate", schedule=turns), 7)
    assert [phase for role, phase in found if role == "student"] == [0, 1, 0]
    assert found[:4] == [["critic", 0], ["student", 0], ["critic", 0], ["critic", 1]]
    critics = [phase for role, phase in found if role == "critic"]
    assert critics == [0, 0, 1, 1, 0, 0, 1]


def test_a_critic_of_another_process_changes_its_expert_at_the_same_level():
    flow = RectifiedFlow()
    method = build(PhasedDMD, critic=lambda: network(2, flow), sampler=PhasedSampler([80.0, 4.0]))
    method.configure_model()
    assert method.student.boundaries == [4.0]
    assert method.critic.boundaries == pytest.approx([4.0 / 5.0])  # sigma / alpha is 4 there


def test_wrong_boundaries_are_named():
    def student() -> Experts:
        return Experts([network(0), network(1)], [3.0])

    with pytest.raises(UserError, match=r"student's experts change at \[3.0\], but the sampler's phases at \[5.0\]"):
        build(PhasedDMD, student=student, sampler=PhasedSampler([80.0, 5.0])).configure_model()
    with pytest.raises(UserError, match="2 equal phases"):
        PhasedSampler([3.0, 2.0, 1.0])


def test_sampling_changes_the_expert_at_the_boundary():
    method = build(PhasedDMD, sampler=PhasedSampler([20.0, 5.0, 1.0, 0.3]))
    method.configure_model()
    asked = []
    for index in range(2):
        expert = method.student.expert(index)
        expert.register_forward_pre_hook(lambda _, args, i=index: asked.append((i, args[1][0].item())))
    points = method.sample([1, 2], {"label": torch.tensor([0, 1])}, role="student")
    assert asked == [(0, 20.0), (0, 5.0), (1, 1.0), (1, 0.3)]
    x = EDM().start(Draws(0, [1, 2], "sample").normal("noise", (2,)), torch.full((2,), 20.0, dtype=torch.float64))
    for i, (t, s) in enumerate(((20.0, 5.0), (5.0, 1.0), (1.0, 0.3), (0.3, 0.0))):
        at = torch.full((2,), t, dtype=torch.float64)
        label = method.codec.encode_condition({"label": torch.tensor([0, 1])})
        x0 = method.student.expert(i // 2).eval()(x, at, label).x0
        x = x0 + s / t * (x - x0)
    torch.testing.assert_close(points, method.codec.decode(x.detach()), rtol=1e-4, atol=1e-4)
