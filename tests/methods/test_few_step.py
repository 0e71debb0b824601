"""Distribution matching along few steps: SenseFlow, DP-DMD, CDM, 1.x-Distill and SD3.5-Flash, by hand in fp64."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from every_method import fit
from methods.test_closed_form import Asked, Generator, TwoGaussians, assert_generator_gradient, by_process
from methods.test_matching import LAWS, gradients, labelled, laws, on_two_gaussians, output
from torch import Tensor
from toys import FreeData, build, trainer

from fastgen.conditions import Condition, Guidance
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import FirstStepAnchor, ImplicitAlignment, IntraSegmentGuidance
from fastgen.methods import CDM, DMD2, DPDMD, DecoupledDMD, OneXDistill, SD35Flash, SenseFlow
from fastgen.objectives.few_step_forms import ColumnHuberForm, NoisyGapForm
from fastgen.objectives.metrics import ElementwiseHuber
from fastgen.objectives.score_forms import DistanceForm, DMDForm
from fastgen.processes import EDM, Prediction, Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, RandomScheduleSampler, RenoiseSampler, TrajectorySampler
from fastgen.times import UniformTime

pytestmark = pytest.mark.filterwarnings("ignore")


def jump(process: Process, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Along x0 and the noise (x - alpha x0) / sigma."""
    (a, b), (c, d) = (tuple(v[:, None] for v in process.coefficients(u)) for u in (t, s))
    return c * x0 + d * (x - a * x0) / b


def scores(process: Process, x_t: Tensor, t: Tensor, w: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """What the guided teacher and the critic see."""
    alpha, sigma = process.coefficients(t)
    cond, uncond = laws("teacher", x_t, alpha, sigma)
    return uncond + w * (cond - uncond), laws("critic", x_t, alpha, sigma)[0]


# ---------------------------------------------------------------------- forms


def predictions(shape: tuple[int, ...]) -> tuple[Tensor, Prediction, Prediction]:
    g, t = torch.Generator().manual_seed(0), torch.full(shape[:1], 0.6, dtype=torch.float64)
    x, x_t, real, fake = torch.randn(4, *shape, generator=g, dtype=torch.float64)
    flow = RectifiedFlow()
    return x.requires_grad_(), Prediction(flow, x_t, t, real, "x0"), Prediction(flow, x_t, t, fake, "x0")


def test_the_normaliser_may_see_the_noisy_sample():
    x, real, fake = predictions((5, 3))
    (found,) = torch.autograd.grad(NoisyGapForm()(x, real, fake), x)
    expected = (fake.x0 - real.x0) / (real.x_t - real.x0).abs().mean(1, keepdim=True) / x.numel()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    clean = Prediction(real.process, x, real.t, real.value, "x0")
    torch.testing.assert_close(NoisyGapForm()(x, clean, fake), DMDForm()(x, clean, fake))


def test_columns_have_gaps_of_their_own():
    """THU-AccDiff/1.x_distill: the mean over axes 1 and 2, ``c = 1e-3 sqrt(D / 16384)``; on vectors it is TDM's."""
    x, real, fake = predictions((2, 4, 6, 8))
    (found,) = torch.autograd.grad(ColumnHuberForm()(x, real, fake), x)
    c, d = 1e-3 * (4 * 6 * 8 / 16384) ** 0.5, fake.x0 - real.x0
    expected = d / (d.square() + c * c).sqrt() / (x - real.x0).abs().mean((1, 2), keepdim=True) / x.numel()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-15)
    x, real, fake = predictions((5, 3))
    plain = DistanceForm(ElementwiseHuber(1e-3 * (3 / 16384) ** 0.5))
    torch.testing.assert_close(ColumnHuberForm()(x, real, fake), plain(x, real, fake), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------- SenseFlow


def with_data(count: int = 8, step: int = 0) -> MicroBatch:
    part = labelled(count, step)
    part.x0 = torch.randn(count, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return part


@by_process
def test_a_coin_decides_where_senseflow_begins(process: Process):
    """Backward simulation stops where all stop; real samples get a time each, and at the first are noise alone."""
    times = [fraction * process.t_max for fraction in (1.0, 0.7, 0.4, 0.2)]
    method = on_two_gaussians(SenseFlow, process, sampler=RenoiseSampler(times), extras=[])
    seen: Counter[str] = Counter()
    for step in range(24):
        part = with_data(32, step)
        rollout = method.rollout(part, "student")
        if isinstance(rollout.step, int):
            seen["simulated"] += 1
            continue
        seen["data"] += 1
        assert set(rollout.step.tolist()) == {0, 1, 2, 3}
        draws, (made,) = part.draws.scoped("rollout"), rollout.trajectory
        noise, t = draws.normal("noise", (3,), torch.float64), torch.tensor(times, dtype=torch.float64)[rollout.step]
        alpha, sigma = (c[:, None] for c in process.coefficients(t))
        first, alone = (rollout.step == 0)[:, None], process.start(noise, t)
        torch.testing.assert_close(made.x_t, torch.where(first, alone, alpha * part.x0 + sigma * noise))
        assert rollout.x0.requires_grad and torch.equal(rollout.t, t)
    assert seen["simulated"] > 5 and seen["data"] > 5


@by_process
def test_without_extras_and_data_it_is_dmd2(process: Process):
    kwargs: dict[str, Any] = {"guidance": Guidance(teacher=3.0), "sampler": RenoiseSampler(steps=2)}
    one = gradients(on_two_gaussians(SenseFlow, process, data_share=0.0, extras=[], **kwargs), labelled())
    other = gradients(on_two_gaussians(DMD2, process, **kwargs), labelled())
    assert all(map(torch.equal, one, other))


def test_senseflow_by_default():
    method = build(SenseFlow)
    assert [type(extra) for extra in method.each_extra()] == [IntraSegmentGuidance, ImplicitAlignment]
    assert [method.turns(i) for i in (0, 1, 9, 10)] == [
        ("student", "critic"),
        ("critic",),
        ("critic",),
        ("student", "critic"),
    ]
    with pytest.raises(UserError, match=r"'x0' is missing.* set data_share to 0"):
        trainer(20).fit(build(SenseFlow), FreeData(batch_size=4))
    trainer(2).fit(build(SenseFlow, data_share=0.0), FreeData(batch_size=4))


# ---------------------------------------------------------------------- DP-DMD


class Linear(Generator):
    """x0 = A x_t / sigma + b, with the gradient in x_t."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return x_t / self.process.start(torch.ones_like(x_t), t) @ self.a.T + self.b


@by_process
def test_dp_dmd_by_hand(process: Process):
    """DMD's gradient on the end of the chain runs through steps two to four and stops before the first."""
    times = [fraction * process.t_max for fraction in (1.0, 0.75, 0.5, 0.25)]
    sampler = JumpSampler(times, stop="last", gradient_calls=3)
    method = DPDMD(
        teacher=partial(TwoGaussians, process, LAWS["teacher"]),
        critic=partial(TwoGaussians, process, LAWS["critic"]),
        student=partial(Linear, process),
        sampler=sampler,
        extras=[],
    )
    method.configure_model()
    asked, part = Asked(method.teacher), labelled()
    found = gradients(method, part)
    ((x_t, t),) = asked.calls
    x_t, t = x_t[:8], t[:8]
    assert len(t.unique()) == 1, "one level for the batch"
    a, b = (p.detach().clone().requires_grad_() for p in method.student.parameters())
    at = [torch.full((8,), time, dtype=torch.float64) for time in times]
    x = process.start(part.draws.scoped("student/rollout").normal("noise", (3,), torch.float64), at[0])
    for i, (here, there) in enumerate(pairwise([*at, torch.full_like(t, process.t_clean)])):
        x0 = x / process.start(torch.ones_like(x), here) @ a.T + b
        x = jump(process, x, x0, here, there) if i < 3 else x0
        x = x.detach() if i == 0 else x
    rollout = part.rollouts["student"]
    torch.testing.assert_close(rollout.x0, x, rtol=1e-9, atol=1e-9)
    real, fake = scores(process, x_t, t, 3.5)
    direction = (fake - real) / (x_t - real).abs().mean(1, keepdim=True) / x.numel()
    for one, other in zip(found, torch.autograd.grad((direction * x).sum(), (a, b)), strict=True):
        assert (one - other).norm() < 1e-9 * other.norm()


def test_dp_dmd_by_default():
    method = build(DPDMD)
    assert [type(extra) for extra in method.each_extra()] == [FirstStepAnchor]
    assert [i for i in range(18) if method.turns(i) == ("student",)] == [5, 11, 17], "(i + 1) % 6 == 0 in the code"
    assert {turn for i in range(18) for turn in method.turns(i)} == {"student", "critic"}
    fit(method, 12)


# ---------------------------------------------------------------------- CDM


def cdm(process: Process, **kwargs: Any) -> Any:
    first = [fraction * process.t_max for fraction in (1.0, 0.75, 0.5, 0.25)]
    sampler = RandomScheduleSampler(first, longest=5)
    return on_two_gaussians(
        CDM, process, **{"sampler": sampler, "guidance": Guidance(teacher=8.0), "extras": []} | kwargs
    )


@by_process
def test_random_schedules(process: Process):
    """From the first time to a random number of later ones within [0.25, 0.95], by jumps of the student itself."""
    method, lengths = cdm(process), Counter()
    for step in range(12):
        part = labelled(8, step)
        with torch.no_grad():
            rollout = method.rollout(part, "student")
        draws = part.draws.scoped("student/rollout")
        count = 1 + draws.shared_integer("length", 5)
        lengths[count] += 1
        later = [UniformTime(0.25, 0.95).sample(draws.scoped(f"call{i}"), process) for i in range(1, count)]
        times = torch.stack([torch.full((8,), process.t_max, dtype=torch.float64), *later]).sort(0, True).values
        index = draws.integers("step", count)
        for i in range(8):
            x = process.start(draws.normal("noise", (3,), torch.float64)[i : i + 1], times[:1, i])
            for k in range(int(index[i])):
                x0 = x / process.start(torch.ones_like(x), times[k : k + 1, i]) @ method.student.a.T + method.student.b
                x = jump(process, x, x0, times[k : k + 1, i], times[k + 1 : k + 2, i])
            torch.testing.assert_close(rollout.trajectory[-1].x_t[i : i + 1], x.detach(), rtol=1e-9, atol=1e-9)
            assert rollout.t[i] == times[index[i], i]
        follower = method.sampler.rollout(method.student, draws, {}, torch.float64, ahead=1)
        assert torch.equal(follower.step, (index + 1).clamp(max=count - 1)), "the critic learns the call after it"
    assert len(lengths) >= 4


@by_process
def test_cdm_by_hand(process: Process):
    """Three squared errors without the half: guidance below the input, matching at all levels, and off the path."""
    method, part = cdm(process), labelled()
    asked = Asked(method.teacher)
    losses = method.student_loss(part)
    assert set(losses) == {"match", "guidance", "off_trajectory"}
    (x_dm, t_dm), (x_ca, t_ca), (x_off, t_off) = asked.calls
    rollout = part.rollouts["student"]
    x, made = rollout.x0, rollout.trajectory[-1]
    cond, fake = scores(process, x_dm, t_dm)

    def squared(target: Tensor, of: Tensor) -> Tensor:
        return (of - target.detach()).square().mean()

    def gap(of: Tensor, reference: Tensor) -> Tensor:
        return (of - reference).detach().abs().mean(1, keepdim=True).clamp(min=0.1)

    torch.testing.assert_close(losses["match"], squared(x + (cond - fake) / gap(x, cond), x), rtol=1e-9, atol=0)
    x_ca, t_ca = x_ca[:8], t_ca[:8]
    assert bool((t_ca <= rollout.t).all())
    (cond, _), (uncond, _) = scores(process, x_ca, t_ca), scores(process, x_ca, t_ca, 0.0)
    target = x + 7.0 * (cond - uncond) / gap(x, cond)
    torch.testing.assert_close(losses["guidance"], squared(target, x), rtol=1e-9, atol=0)
    s = UniformTime(0.0, 1.0).sample(part.draws.scoped("student/off_trajectory"), process)
    beside = jump(process, made.x_t, x, rollout.t, s).detach()
    off = beside / process.start(torch.ones_like(beside), s) @ method.student.a.T + method.student.b
    cond, fake = scores(process, x_off, t_off)
    expected = squared(off + (cond - fake) / gap(off, cond), off)
    torch.testing.assert_close(losses["off_trajectory"], expected, rtol=1e-9, atol=0)
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(losses["off_trajectory"], parameters)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@by_process
def test_on_the_trajectory_cdm_is_decoupled_dmd(process: Process):
    same: dict[str, Any] = {"normaliser": "per_term", "floor": 0.1, "matching_weight": 2.0, "guidance_weight": 2.0}
    method, other = (
        cdm(process, off_weight=0.0),
        on_two_gaussians(
            DecoupledDMD,
            process,
            guidance=Guidance(teacher=8.0),
            sampler=cdm(process).sampler,
            renoise_time=UniformTime(0.02, 0.98),
            **same,
        ),
    )
    part, again = labelled(), labelled()
    other.rollout_scope = method.rollout_scope
    one, two = method.student_loss(part), other.student_loss(again)
    assert one.pop("off_trajectory") == 0.0
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---------------------------------------------------------------------- 1.x-Distill


@by_process
def test_one_x_distill_guides_below_a_level(process: Process):
    """TDM's step, with the teacher's guidance where sigma / (alpha + sigma) is at most the threshold."""
    times = [0.9 * process.t_max, 0.6 * process.t_max, 0.3 * process.t_max]
    method = on_two_gaussians(OneXDistill, process, sampler=TrajectorySampler(times), guided_below=0.6)
    asked, part = Asked(method.teacher), labelled(24)
    gradients(method, part)
    rollout = part.rollouts["student"]
    z, x = output(method)
    ((x_t, t),) = asked.calls
    x_t, t = x_t[:24], t[:24]
    alpha, sigma = process.coefficients(t)
    below = sigma / (alpha + sigma) <= 0.6
    assert bool(((t >= rollout.t_anchor) & (t <= rollout.t)).all())
    if isinstance(process, RectifiedFlow):
        assert below.any() and not below.all()
    real, fake = scores(process, x_t, t, torch.where(below, 7.0, 1.0)[:, None])
    c, d = 1e-3 * (3 / 16384) ** 0.5, fake - real
    slope = d / (d.square() + c * c).sqrt() / oracles.normaliser(x, real) / x.numel()
    assert_generator_gradient(method, slope, z)


@by_process
def test_the_critic_of_one_x_distill_learns_the_effective_velocity(process: Process):
    method = on_two_gaussians(OneXDistill, process, sampler=TrajectorySampler(steps=3))
    asked, part = Asked(method.critic), labelled(16)
    loss = method.critic_loss(part)["denoising"]
    ((x_t, t),) = asked.calls
    x0 = part.rollouts["critic"].x0
    fake, _ = laws("critic", x_t, *process.coefficients(t))
    alpha, sigma = (c[:, None] for c in process.coefficients(t))
    da, db = (c[:, None] for c in process.derivatives(t))
    error = (da * fake + db * (x_t - alpha * fake) / sigma) - (da * x0 + db * (x_t - alpha * x0) / sigma)
    torch.testing.assert_close(loss, error.square().mean(), rtol=1e-7, atol=0)


# ---------------------------------------------------------------------- SD3.5-Flash


@by_process
def test_sd35_flash_compares_on_the_students_line(process: Process):
    """x0 with the noise that the student predicted, at one of its times; DMD2's gradient there."""
    times = [fraction * process.t_max for fraction in (0.9, 0.7, 0.4)]
    method = on_two_gaussians(SD35Flash, process, sampler=JumpSampler(times), guidance=Guidance(teacher=3.0))
    seen = set()
    for step in range(8):
        method.student.zero_grad()
        asked, part = Asked(method.teacher), labelled(8, step)
        gradients(method, part)
        (x_t, t) = asked.calls[-1]
        x_t, t = x_t[:8], t[:8]
        z, x = output(method)
        made = part.rollouts["student"].trajectory[-1]
        seen |= set(t.tolist())
        assert bool((t < made.t).all())
        torch.testing.assert_close(x_t, jump(process, made.x_t, x, made.t, t).detach(), rtol=1e-9, atol=1e-9)
        real, fake = scores(process, x_t, t, 3.0)
        assert_generator_gradient(method, oracles.dmd_x_gradient(x, real, fake), z)
    assert seen == {*times[1:], 0.5 * times[-1]}
    part = labelled()
    asked = Asked(method.critic)
    method.critic_loss(part)
    ((x_t, t),) = asked.calls
    alpha, sigma = (c[:, None] for c in process.coefficients(t))
    noise = part.draws.scoped("critic").normal("noise", (3,), torch.float64)
    torch.testing.assert_close(x_t, alpha * part.rollouts["critic"].x0 + sigma * noise)
    assert set(t.tolist()) <= set(times)


def test_laws_of_levels_know_the_students_times():
    method = on_two_gaussians(DMD2, EDM(), sampler=RenoiseSampler([5.0, 1.0]))
    assert list(method.renoise(UniformTime()).times) == [5.0, 1.0]
