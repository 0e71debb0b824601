"""TVM, MDT-dist and DisCa's mean flows on Gaussians, whose map is known (fp64): losses and gradients by hand."""

from __future__ import annotations

from functools import partial

import torch
from gaussian_maps import ExactMap, exact_map, exact_velocity, micro_batch
from methods.test_two_times import FLOW, UNGUIDED, Fixed, column, loss_and_gradient, made, mean_velocity
from torch import Tensor

from fastgen.methods import TVM, MDTDist, MeanFlow, RestrictedMeanFlow
from fastgen.methods.flow_maps.velocity import TeacherVelocity
from fastgen.objectives.tangents import ForwardMode
from fastgen.times import GapTimes


def test_tvm_by_hand():
    """``df/ds`` of the jump against the average's velocity at its end; the own velocity against the data's."""
    t, s, scale = 0.8, 0.3, 1.2
    method = made(TVM, FLOW, scale, times=Fixed(t, s, s), flow_weight=0.7)
    with torch.no_grad():
        method.target_weights[0].scale.fill_(0.9)
    part = micro_batch()
    losses = method.student_loss(part)
    gradient = torch.autograd.grad(sum(losses.values()), method.student.scale)[0]
    state, h = method.state(part), 1e-5
    x, at, to = state.x_t, state.times.t, state.times.s

    def end(to: Tensor) -> Tensor:  # of the exact map, whose distance to x the student multiplies
        return exact_map(FLOW, x, at, to) - x

    rate = (end(to + h) - end(to - h)) / (2 * h)
    gap = scale * rate - 0.9 * exact_velocity(FLOW, x + scale * end(to), to)
    torch.testing.assert_close(losses["terminal"].detach(), gap.square().mean(), rtol=1e-6, atol=0)
    drawn = torch.sigmoid(-0.4 + part.draws.scoped("student/flow").gauss("time"))
    other = (1 - column(drawn)) * state.x0 + column(drawn) * state.noise
    slope = exact_velocity(FLOW, other, drawn)
    flow = scale * slope - (state.noise - state.x0)
    torch.testing.assert_close(losses["flow"].detach(), 0.7 * flow.square().mean(), rtol=1e-9, atol=0)
    expected = (2 * gap * rate / 3).mean(0) + 0.7 * (2 * flow * slope / 3).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_mdt_dist_by_hand():
    """``u* = v - t d / (|d| + c)``; one call from noise has the gradient ``2 (v_student - u*) dv`` of its own gap."""
    scale, c, weight = 1.2, 0.3, 0.6
    settings = {"times": Fixed(0.8, 0.0, 0.0), "derivative": ForwardMode(), "c": c, "guidance": UNGUIDED}
    student = partial(ExactMap, FLOW, True, scale)
    method = made(MDTDist, student=student, distillation_weight=weight, **settings)
    part = micro_batch()
    losses = method.student_loss(part)
    state, h = method.state(part), 1e-5
    t, clean = state.times.t, state.times.s

    def gap(x: Tensor) -> Tensor:
        v = exact_velocity(FLOW, x, t)
        rate = (mean_velocity(x + h * v, t + h, clean) - mean_velocity(x - h * v, t - h, clean)) / (2 * h)
        d = scale * rate
        return scale * mean_velocity(x, t, clean) - (v - 0.8 * d / (d.norm(dim=1, keepdim=True) + c))

    own = gap(state.x_t)
    torch.testing.assert_close(losses["matching"].detach(), own.square().mean(), rtol=1e-6, atol=0)
    draws = part.draws.scoped("student/distillation")
    start, noise = (draws.normal(name, (3,), torch.float64) for name in ("start", "noise"))
    slope = mean_velocity(start, torch.ones_like(t), clean)
    far = gap(0.2 * (start - scale * slope) + 0.8 * noise)
    torch.testing.assert_close(losses["distillation"].detach(), weight * far.square().mean(), rtol=1e-6, atol=0)
    for name, expected in (
        ("matching", (2 * own * mean_velocity(state.x_t, t, clean) / 3).mean(0)),
        ("distillation", (2 * weight * far * slope / 3).mean(0)),
    ):
        found = torch.autograd.grad(losses[name], method.student.scale, retain_graph=True)[0]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_restricted_mean_flow_is_mean_flow_with_short_jumps():
    """Addendum F: with the largest length 1 it is MeanFlow."""
    times = GapTimes(longest=1.0)
    one = loss_and_gradient(made(RestrictedMeanFlow, FLOW, 1.2, times=times))
    other = loss_and_gradient(made(MeanFlow, FLOW, 1.2, times=times, velocity=TeacherVelocity()))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    short = made(RestrictedMeanFlow, FLOW)
    gap = short.state(micro_batch(64)).times
    assert (gap.t - gap.s).max() <= 0.25 + 1e-12
