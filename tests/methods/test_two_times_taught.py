"""AYF, AnyFlow, SCFM and TraFlow on Gaussians, whose map is known (fp64): losses and gradients by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_method import fit, make
from gaussian_maps import exact_map, exact_velocity, micro_batch
from methods.test_two_times import (
    FLOW,
    LEVELS,
    UNGUIDED,
    ExactStep,
    Fixed,
    Told,
    column,
    loss_and_gradient,
    made,
    mean_velocity,
)
from torch import Tensor

from fastgen.denoisers.networks.mlp import MLP
from fastgen.methods import AYF, SCFM, AnyFlow, MeanFlow, TraFlow
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.transition import TeacherSpan
from fastgen.methods.flow_maps.velocity import DataVelocity, TeacherVelocity
from fastgen.methods.two_times.running_mean import LastMean
from fastgen.methods.two_times.scfm import TwoSpeeds
from fastgen.objectives.tangents import ForwardMode
from fastgen.processes import EDM, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler, ThreeJumpSampler
from fastgen.sampling.solvers import Euler
from fastgen.times import FlowTime, GapTimes, LadderTimes, LogitNormalTime, SortedTimes

# ---------------------------------------------------------------------- AYF


def test_ayf_by_hand():
    """``g = F - v + rho (t - s) dF/dt`` along the teacher; the gradient is ``2 g / (|g| + c) dF``."""
    t, s, scale, c = 0.8, 0.3, 1.2, 0.2
    method = made(AYF, FLOW, scale, times=Fixed(t, s, s), guidance=UNGUIDED, c=c, warmup=10)
    method.loaded_updates = 4
    loss, gradient = loss_and_gradient(method)
    state, h = method.state(micro_batch()), 1e-5
    x, at, to = state.x_t, state.times.t, state.times.s
    v, mean = exact_velocity(FLOW, x, at), mean_velocity(x, at, to)
    rate = (mean_velocity(x + h * v, at + h, to) - mean_velocity(x - h * v, at - h, to)) / (2 * h)
    g = scale * mean - v + 0.4 * (t - s) * scale * rate
    unit = g / (g.norm(dim=1, keepdim=True) + c)
    torch.testing.assert_close(loss, unit.square().sum(1).mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, (2 * unit * mean).mean(0), rtol=1e-6, atol=1e-8)
    method.loaded_updates = 1000
    assert method.warmup_factor() == 0.99


def test_ayf_without_its_changes_is_mean_flow():
    """Addendum FM 3.8: rho = 1, the data's velocity, no normalisation."""
    settings: dict[str, Any] = {"times": SortedTimes(LEVELS, diagonal=0.3), "velocity": DataVelocity()}
    ayf = made(AYF, FLOW, 1.2, guidance=UNGUIDED, warmup=0, largest=1.0, **settings)
    mean_flow = made(MeanFlow, FLOW, 1.2, **settings)
    (one, g), (other, tangent) = (m.field_and_tangent(m.state(micro_batch())) for m in (ayf, mean_flow))
    assert torch.equal(one, other) and torch.equal(g, tangent)


def test_gaps_lie_within_the_times():
    times = GapTimes(longest=0.3).sample(Draws(0, range(4000), "test"), FLOW, 0)
    gap = times.t - times.s
    assert times.s.min() >= 0 and times.t.max() <= 1 and gap.max() <= 0.3 + 1e-12 and torch.equal(times.r, times.t)
    free = GapTimes().sample(Draws(0, range(4000), "test"), FLOW, 0)
    logit = torch.logit(free.t - free.s)
    assert abs(logit.mean() + 0.8) < 0.06 and abs(logit.std() - 1) < 0.05
    assert abs(((free.s) / (1 - free.t + free.s)).mean() - 0.5) < 0.02
    assert GapTimes().length == LogitNormalTime(-0.8, 1.0)


# ---------------------------------------------------------------------- AnyFlow


def fused(cls: type = AnyFlow, **settings: Any) -> tuple[Any, Any]:
    part = micro_batch()
    part.condition = {"label": torch.ones(16, dtype=torch.int64)}
    method = made(cls, student=lambda: Told(FLOW), condition_dropout=0.0, **settings)
    return method, part


def test_any_flow_by_hand():
    """The student is the guided one: u = (u(c) - (1 - g) u(null)) / g, du/dt = du(c)/dt / g, along the sample."""
    t, s, g = 0.8, 0.3, 3.0
    method, part = fused(times=Fixed(t, s, s), derivative=ForwardMode(), fused_guidance=g)
    method.still_loss.mean.fill_(0.7)
    (loss,) = method.student_loss(part).values()
    gradient = torch.autograd.grad(loss, method.student.scale)[0]
    state, h = method.state(part), 1e-5
    x, at, to = state.x_t, state.times.t, state.times.s
    v, mean = state.noise - state.x0, mean_velocity(x, at, to)
    rate = 1.5 * (mean_velocity(x + h * v, at + h, to) - mean_velocity(x - h * v, at - h, to)) / (2 * h)
    gap = (1.5 * mean - (1 - g) * mean) / g - (v - (t - s) * rate / g)
    weight = t * (1 - t) ** 0.5 * 15 / 4
    error = weight * gap.square().mean(1)
    scale = 0.7 / (error + 1e-5)
    torch.testing.assert_close(loss, (scale * error).mean(), rtol=1e-6, atol=0)
    expected = (scale[:, None] * weight * 2 * gap * 1.5 * mean / g / 3).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_the_diagonal_of_any_flow_is_weighted_flow_matching():
    """With g = 1; the mean loss of its samples is what the others are scaled to in the next update."""
    method, part = fused(times=SortedTimes(FlowTime(0.1, 0.9), diagonal=1.0), fused_guidance=1.0)
    (loss,) = method.student_loss(part).values()
    state = method.state(part)
    t = state.times.t
    gap = 1.5 * exact_velocity(FLOW, state.x_t, t) - (state.noise - state.x0)
    expected = (column(t * (1 - t).sqrt() * 15 / 4) * gap.square()).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    method.still_loss.settle(lambda total: total)
    torch.testing.assert_close(method.still_loss.mean, expected, rtol=1e-9, atol=0)


def test_the_mean_of_the_last_update_does_not_depend_on_how_it_is_cut():
    values, chosen = torch.rand(8), torch.tensor([True, False] * 4)
    for pieces in (1, 4):
        kept = LastMean()
        kept.begin()
        for one, other in zip(values.chunk(pieces), chosen.chunk(pieces), strict=True):
            kept.see(one, other)
        assert kept.mean == 1.0
        kept.settle(lambda total: total)
        torch.testing.assert_close(kept.mean, values[chosen].double().mean())
    kept.see(values, torch.zeros(8, dtype=torch.bool))
    kept.settle(lambda total: total)
    torch.testing.assert_close(kept.mean, values[chosen].double().mean())


def test_any_flow_keeps_the_mean_in_its_checkpoints():
    method = make(AnyFlow)
    fit(method, 2)
    assert "still_loss.mean" in method.state_dict() and float(method.still_loss.mean) != 1.0


def test_three_jumps_stand_for_a_chain():
    """The exact map: any chain ends where one jump ends. Which calls record a graph, and at most three of them."""
    student = made(AYF, FLOW, guidance=UNGUIDED).student
    sampler, steps = ThreeJumpSampler(counts=(1, 4, 50)), set()
    for step in range(40):
        draws = Draws(0, range(3), "test", step=step)
        rollout = sampler.rollout(student, draws, {}, torch.float64)
        one = JumpSampler(stop="last").rollout(student, draws, {}, torch.float64)
        torch.testing.assert_close(rollout.x0, one.x0, rtol=1e-8, atol=1e-9)
        count = (1, 4, 50)[draws.shared_integer("count", 3)]
        first, last = rollout.step == 0, rollout.step == count - 1
        assert len(rollout.trajectory) == 3 - first - last
        chain = [1 - i / count for i in range(count + 1)]
        assert [float(p.t[0]) for p in rollout.trajectory][-1] == pytest.approx(chain[rollout.step + (not last)])
        graphs = [p.value.requires_grad for p in rollout.trajectory]
        assert graphs == [first] + [True] * (len(graphs) - 1)
        if not last:
            assert rollout.trajectory[-1].x_t.requires_grad, "the gradient runs through both jumps"
        steps.add(len(rollout.trajectory))
    assert steps == {1, 2, 3}


# ---------------------------------------------------------------------- SCFM


def ladder(teacher: float) -> LadderTimes:
    return LadderTimes(teacher=teacher, teacher_steps=8, steps=(2, 4))


def test_the_ladder_has_two_steps_in_a_row():
    draws, law = Draws(0, range(3000), "test"), LadderTimes()
    times, by_teacher = law.sample(draws, FLOW, 0), law.by_teacher(draws)
    shift = 2.5 + 2.0 * draws.uniform("shift")

    def index(time: Tensor) -> Tensor:  # u -> k u / (1 + (k - 1) u), backwards
        return 1 - time / (shift - (shift - 1) * time)

    count = (1 / (index(times.r) - index(times.t))).round()
    assert abs(by_teacher.double().mean() - 0.4) < 0.03
    assert bool((count[by_teacher] == 32).all()) and set(count[~by_teacher].tolist()) == {2.0, 4.0, 8.0, 16.0}
    first, last = count * index(times.t), count * index(times.s)
    torch.testing.assert_close(last, first + 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(first / 2, (first / 2).round(), rtol=0, atol=1e-6)
    assert times.t.max() == 1.0 and times.s.min() == 0.0


@pytest.mark.parametrize("teacher", [0.0, 1.0])
def test_scfm_by_hand(teacher: float):
    """Leg one by the teacher or the fast average, leg two by the slow one: the mean velocity by their lengths."""
    method = made(SCFM, FLOW, 1.2, times=ladder(teacher), guidance=UNGUIDED)
    with torch.no_grad():
        for kept, scale in zip(method.target_weights, (0.8, 1.1), strict=True):
            kept.scale.fill_(scale)
    loss, gradient = loss_and_gradient(method)
    state = method.state(micro_batch())
    t, r, s = state.times.t, state.times.r, state.times.s
    slope = exact_velocity(FLOW, state.x_t, t)
    first = (1.0 if teacher else 0.8) * slope
    second = 1.1 * exact_velocity(FLOW, state.x_t - column(t - r) * first, r)
    target = (column(t - r) * first + column(r - s) * second) / column(t - s)
    gap = 1.2 * slope - target
    torch.testing.assert_close(loss, gap.square().mean(), rtol=1e-5, atol=0)  # copies are kept in fp32
    torch.testing.assert_close(gradient, (2 * gap * slope / 3).mean(0), rtol=1e-5, atol=1e-7)


def test_a_straight_teacher_leaves_nothing():
    """Addendum FM 3.6: constant velocity, loss 0 for every grid."""

    class Straight(MLP):
        def predict(self, x_t: Tensor, t: Tensor, condition: Any, s: Tensor | None = None) -> Tensor:
            return torch.ones_like(x_t) + 0.0 * next(self.parameters()).sum()

    method = SCFM(teacher=lambda: Straight(FLOW, width=4), student=lambda: Straight(FLOW, width=4), guidance=UNGUIDED)
    method.configure_model()
    for network in (method.student, method.teacher, *method.target_weights):
        network.prediction = "velocity"
    part = micro_batch()
    part.x0 = part.x0[:, :2].float()
    (loss,) = method.student_loss(part).values()
    assert loss < 1e-10
    assert TwoSpeeds().beta(1, 0, 4) == [0.99, 0.999] and not method.two_times


def test_the_teacher_of_scfm_is_guided():
    assert made(SCFM).guidance == TeacherGuidance(3.5)


# ---------------------------------------------------------------------- TraFlow


def test_traflow_by_hand():
    method = made(
        TraFlow,
        FLOW,
        1.2,
        times=Fixed(0.8, 0.2, 0.5),
        path=ExactStep(),
        output_weight=2.0,
        velocity_weight=3.0,
        consistency_weight=5.0,
    )
    with torch.no_grad():
        method.target_weights[0].scale.fill_(0.9)
    losses = method.student_loss(micro_batch())
    state = method.state(micro_batch())
    x, (t, r, s) = state.x_t, (state.times.t, state.times.r, state.times.s)

    def jump(x: Tensor, t: Tensor, s: Tensor, scale: float) -> Tensor:
        return x + scale * (exact_map(FLOW, x, t, s) - x)

    end = jump(x, t, s, 1.2)
    gaps = {
        "output": (2.0, end - exact_map(FLOW, x, t, s), exact_map(FLOW, x, t, s) - x),
        "velocity": (3.0, 0.2 * exact_velocity(FLOW, x, t), exact_velocity(FLOW, x, t)),
        "consistency": (5.0, end - jump(jump(x, t, r, 0.9), r, s, 0.9), exact_map(FLOW, x, t, s) - x),
    }
    for name, (weight, gap, rise) in gaps.items():
        torch.testing.assert_close(losses[name], weight * gap.square().mean(), rtol=1e-5, atol=0)
        gradient = torch.autograd.grad(losses[name], method.student.scale, retain_graph=True)[0]
        torch.testing.assert_close(gradient, (2 * weight * gap * rise / 3).mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("process", [RectifiedFlow(), EDM()], ids=["flow", "edm"])
def test_a_span_of_the_teacher_tends_to_the_flow(process: Any):
    errors = []
    for steps in (4, 8, 16):
        method = made(TraFlow, process, path=TeacherSpan(Euler(), steps), coordinates=process)
        method.times = SortedTimes(LEVELS, diagonal=0.0, to_data=0.5)
        state = method.state(micro_batch(64))
        times = type(state.times)(state.times.t, state.times.s, state.times.s)
        fields = ("x_t", "x0", "noise", "condition", "dropped", "guidance")
        found = method.path.step(method.networks, MapState(times, *(getattr(state, field) for field in fields)))
        errors.append((found - exact_map(process, state.x_t, times.t, times.s)).square().mean().sqrt())
    assert 1.5 < errors[0] / errors[1] < 2.6 and 1.5 < errors[1] / errors[2] < 2.6, errors
    assert made(TraFlow).velocity == DataVelocity() and made(TraFlow).needs_teacher()
    assert TeacherVelocity().needs_teacher
