"""The flow-map methods on Gaussians, whose map is known: zero residuals, hand-made losses and gradients (fp64)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from gaussian_maps import (
    COVARIANCE,
    MEAN,
    PROCESSES,
    ExactMap,
    ExactStep,
    Fixed,
    exact_map,
    exact_velocity,
    loss_and_gradient,
    made,
    micro_batch,
)
from torch import Tensor, nn
from toys import CLASSES, StopAfter, ToyData, build, network, trainer

import fastgen.methods
from fastgen.data.sources import BatchSource, TensorSource
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.networks.dropout import Dropout, foreign_dropout, masks_of
from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.guided import Guided, guided
from fastgen.denoisers.wrappers.on_process import OnProcess
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import ECT, LCM, LSD, PSD, SCM, FlowMapDistiller, MeanFlow, Shortcut
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import TeacherStep
from fastgen.methods.flow_maps.velocity import DataVelocity, MixedVelocity, TeacherVelocity
from fastgen.objectives.error_weights import AdaptiveWeight
from fastgen.objectives.metrics import PseudoHuber, SquaredError
from fastgen.objectives.tangents import Derivative, FiniteDifference, ForwardMode
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler, RenoiseSampler
from fastgen.sampling.solvers import Euler, Heun
from fastgen.times import DyadicTimes, EasyTimes, GridTimes, JumpTimes, LogNormalLevel, SortedTimes, ToData

by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
PLAIN = AdaptiveWeight(power=0.0)
"""The squared error as it is."""
LEVELS = LogNormalLevel(0.0, 0.7)


# ---------------------------------------------------------------------- zero residuals (specification 8.1)


@by_process
@pytest.mark.parametrize("cls", [ECT, LCM])
def test_bootstrap_residual(cls: type[FlowMapDistiller], process: Process):
    times = EasyTimes(LEVELS, double=1) if cls is ECT else GridTimes(10)
    settings = {"times": times, "transition": ExactStep(), "to_data": True, "weight": UniformWeight()}
    if cls is LCM:
        settings["guidance"] = TeacherGuidance()
    loss, _ = loss_and_gradient(made(cls, process, metric=PseudoHuber(), **settings))
    assert loss < 1e-8
    assert loss_and_gradient(made(cls, process, 1.2, metric=PseudoHuber(), **settings))[0] > 1e-3


@pytest.mark.parametrize("middle", [0.5, None], ids=["midpoint", "uniform"])
@pytest.mark.parametrize("cls", [LSD, PSD])
@pytest.mark.parametrize("name", ["flow", "edm", "trig"])
def test_self_distillation_residual(cls: type[FlowMapDistiller], name: str, middle: float | None):
    """With the teacher's velocity on the diagonal, in the coordinates of every process."""
    settings = {
        "times": SortedTimes(LEVELS, diagonal=0.3, middle=middle),
        "velocity": TeacherVelocity(),
        "coordinates": PROCESSES[name],
        "learned_weight": False,
    }
    method = made(cls, PROCESSES[name], **settings)
    times = method.state(micro_batch()).times
    assert 0 < int((times.s == times.t).sum()) < 16
    loss, gradient = loss_and_gradient(method)
    assert loss < 1e-16 and gradient.norm() < 1e-8
    assert method.residual(method.state(micro_batch())).abs().max() < 1e-8
    assert loss_and_gradient(made(cls, PROCESSES[name], 1.2, **settings))[0] > 1e-3


@pytest.mark.parametrize("name", ["flow", "edm", "trig"])
def test_mean_flow_residual(name: str):
    """With the teacher's velocity, in the coordinates of every process."""
    process = PROCESSES[name]
    settings = {
        "times": SortedTimes(LEVELS, diagonal=0.3, to_data=0.3),
        "velocity": TeacherVelocity(),
        "coordinates": process,
        "weight": PLAIN,
    }
    method = made(MeanFlow, process, **settings)
    state = method.state(micro_batch())
    assert 0 < int((state.times.s == state.times.t).sum()) < 16
    loss, gradient = loss_and_gradient(method)
    assert loss < 1e-16 and gradient.norm() < 1e-8
    assert loss_and_gradient(made(MeanFlow, process, 1.2, **settings))[0] > 1e-3


@by_process
def test_scm_residual_on_any_network(process: Process):
    """Networks of other processes are seen through TrigFlow; the residual stays zero."""
    settings = {"times": ToData(LEVELS), "warmup": 0, "learned_weight": False, "c": 1.0, "to_data": True}
    loss, gradient = loss_and_gradient(made(SCM, process, **settings))
    assert loss < 1e-16 and gradient.norm() < 1e-8
    assert loss_and_gradient(made(SCM, process, 1.2, **settings))[0] > 1e-3


def test_shortcut_residual():
    """Zero for all jumps but the shortest, whose halves are Euler steps of the flow: of first order in their length."""
    errors = []
    for levels in (4, 5, 6):
        method = made(Shortcut, RectifiedFlow(), times=DyadicTimes(bootstrap=1.0, levels=levels))
        state = method.state(micro_batch(400))
        t, s = state.times.t, state.times.s
        shortest = t - s < 1.5 * method.times.shortest
        residual = (method.two_halves(state) - method.predict(method.student, state.x_t, t, s, state).velocity).detach()
        assert 20 < int(shortest.sum()) < 380
        assert residual[~shortest].abs().max() < 1e-8
        errors.append(residual[shortest].square().mean().sqrt())
    assert 1.5 < errors[0] / errors[1] < 2.7 and 1.5 < errors[1] / errors[2] < 2.7, errors


def test_every_flow_map_has_a_residual_above():
    exported = (getattr(fastgen.methods, name) for name in fastgen.methods.__all__)
    maps = {cls for cls in exported if issubclass(cls, FlowMapDistiller) and not cls.__abstractmethods__}
    found = {cls for cls in maps if cls.__module__.startswith("fastgen.methods.flow_maps.")}  # others have own files
    assert found == {ECT, LCM, LSD, MeanFlow, PSD, SCM, Shortcut}


def test_data_velocities_are_right_in_the_mean():
    """The gradient of MeanFlow with the data's velocity has mean zero at the exact map."""
    process = RectifiedFlow()
    method = made(MeanFlow, process, times=SortedTimes(LEVELS, diagonal=0.5), weight=PLAIN)
    gradients = torch.stack([loss_and_gradient(method, micro_batch(400, seed))[1] for seed in range(30)])
    error = gradients.std(0) / len(gradients) ** 0.5
    assert bool((gradients.mean(0).abs() < 4 * error).all())
    wrong = made(MeanFlow, process, 1.1, times=SortedTimes(LEVELS, diagonal=0.5), weight=PLAIN)
    assert bool((loss_and_gradient(wrong, micro_batch(400))[1].abs() > 5 * error).any())


# ---------------------------------------------------------------------- values and gradients by hand


def test_ect_by_hand():
    process, scale, t, r, c = EDM(), 1.3, 1.5, 0.6, 0.2
    method = made(ECT, process, scale, True, times=Fixed(t, 0.0, r), metric=PseudoHuber(c))
    loss, gradient = loss_and_gradient(method)
    state = method.state(micro_batch())
    times, noise = state.times, state.noise

    def f(x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        slope = (x - exact_map(process, x, at, torch.zeros_like(at))) / at[:, None]
        return x - at[:, None] * scale * slope, -at[:, None] * slope

    output, rate = f(state.x0 + t * noise, times.t)
    difference = output - f(state.x0 + r * noise, times.r)[0]
    norm = (difference.square().sum(1) + c**2).sqrt()
    assert abs(loss - ((norm - c) / (t - r)).mean()) < 1e-12
    expected = (difference / norm[:, None] * rate).mean(0) / (t - r)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_ect_begins_as_denoising():
    """R = 0: the target is the datum, whatever the network says there."""
    method = made(ECT, EDM(), 1.3, True, times=Fixed(1.5, 0.0, 0.0), metric=SquaredError(), weight=UniformWeight())
    state = method.state(micro_batch())
    assert torch.equal(method.bootstrap(state), state.x0)
    t = state.times.t
    x0 = method.student(state.x_t, t).x0
    assert abs(loss_and_gradient(method)[0] - (x0 - state.x0).square().mean()) < 1e-14


@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=["euler", "heun"])
def test_teacher_transition(solver: Any):
    """LCM's x_r is a DDIM step of the guided teacher with each sample's own scale."""
    teacher = partial(network, 1, VP())
    method = LCM(
        teacher=teacher, student=partial(network, 2, VP()), times=GridTimes(10), transition=TeacherStep(solver)
    )
    method.configure_model()
    label = torch.arange(8) % CLASSES
    draws = Draws(3, range(8), "test")
    state = method.state(MicroBatch(draws.normal("x0", (2,)), {"label": label}, draws))
    assert state.guidance.min() >= 6 and state.guidance.max() <= 16 and len(state.guidance.unique()) == 8
    found = method.transition.step(method.networks, state)
    if isinstance(solver, Euler):
        t, r = state.times.t, state.times.r
        cond = method.teacher(state.x_t, t, {"label": label})
        uncond = method.teacher(state.x_t, t, {"label": torch.full_like(label, CLASSES)})
        g = state.guidance.float()[:, None]
        x0, noise = (getattr(uncond, k) + g * (getattr(cond, k) - getattr(uncond, k)) for k in ("x0", "noise"))
        alpha, sigma = (w.float()[:, None] for w in VP().coefficients(r))
        torch.testing.assert_close(found, alpha * x0 + sigma * noise, rtol=1e-4, atol=1e-4)
    else:
        first = method.networks.guided_teacher(state)
        assert isinstance(first, Guided)
        expected = solver.step(first, state.x_t, state.times.t, state.times.r, state.condition)
        torch.testing.assert_close(found, expected)


def test_mean_flow_by_hand():
    """Gradient 2 w (u - target) du; the weight is (error + c)^-p without gradient."""
    t, s, scale, c, power = 0.8, 0.3, 1.2, 0.05, 0.5
    method = made(MeanFlow, RectifiedFlow(), scale, times=Fixed(t, s, s), weight=AdaptiveWeight(c, power))
    loss, gradient = loss_and_gradient(method)
    state, process = method.state(micro_batch()), RectifiedFlow()
    v = state.noise - state.x0

    def mean(x: Tensor, t: Tensor) -> Tensor:
        return (x - exact_map(process, x, t, state.times.s)) / (t - state.times.s)[:, None]

    h, at = 1e-5, state.times.t
    u, rate = (
        scale * mean(state.x_t, at),
        scale * (mean(state.x_t + h * v, at + h) - mean(state.x_t - h * v, at - h)) / (2 * h),
    )
    difference = u - (v - (t - s) * rate)
    error = difference.square().sum(1)
    weight = (error + c) ** -power
    assert abs(loss - (weight * error).mean()) < 1e-7
    expected = (2 * weight[:, None] * difference * mean(state.x_t, at)).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_the_diagonal_of_mean_flow_is_flow_matching():
    method = made(MeanFlow, RectifiedFlow(), 1.2, times=SortedTimes(LEVELS, diagonal=1.0), weight=PLAIN)
    state = method.state(micro_batch())
    u = 1.2 * exact_velocity(RectifiedFlow(), state.x_t, state.times.t)
    expected = (u - (state.noise - state.x0)).square().sum(1).mean()
    assert abs(loss_and_gradient(method)[0] - expected) < 1e-12


def test_scm_gradient_is_the_tangent():
    """DL / dF = -2 exp(w) g / (|g| + c) / D, and dL / dw = exp(w) error - 1."""
    method = made(SCM, TrigFlow(0.5), 1.2, True, times=ToData(LEVELS), warmup=10, c=0.1)
    method.loaded_updates = 4
    nn.init.constant_(method.log_weight.linear.bias, 0.7)
    method.log_weight.double()
    part = micro_batch()
    loss = method.student_loss(part)["consistency"]
    gradient, bias = torch.autograd.grad(loss, [method.student.scale, method.log_weight.linear.bias])
    state = method.state(part)
    x, t = state.x_t, state.times.t
    process, clean = TrigFlow(0.5), torch.zeros_like(t)
    cos, sin = torch.cos(t)[:, None], torch.sin(t)[:, None]

    def unit(x: Tensor, t: Tensor) -> Tensor:  # sigma_d F of the exact map
        return (torch.cos(t)[:, None] * x - exact_map(process, x, t, clean)) / torch.sin(t)[:, None]

    v, h = exact_velocity(process, x, t), 1e-5
    rate = 1.2 * (unit(x + h * v, t + h) - unit(x - h * v, t - h)) / (2 * h)
    g = -cos.square() * (1.2 * unit(x, t) - v) - 0.4 * (cos * sin * x + cos * sin * rate)
    g = g / (g.norm(dim=1, keepdim=True) + 0.1)
    weight = torch.exp(torch.tensor(0.7, dtype=torch.float64))
    expected = (-2 * weight * g / 3 * unit(x, t) / 0.5).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    assert abs(bias - (weight * g.square().mean(1) - 1).mean()) < 1e-6


def test_finite_differences_move_along_the_same_velocity():
    for cls, settings in ((MeanFlow, {"times": SortedTimes(LEVELS, diagonal=0.2)}), (SCM, {"times": ToData(LEVELS)})):
        process = RectifiedFlow() if cls is MeanFlow else TrigFlow(0.5)
        settings |= {"velocity": TeacherVelocity(), "to_data": cls is SCM}
        exact = loss_and_gradient(made(cls, process, 1.2, **settings))[1]
        near = loss_and_gradient(made(cls, process, 1.2, derivative=FiniteDifference(1e-4), **settings))[1]
        torch.testing.assert_close(exact, near, rtol=1e-5, atol=1e-7)


def test_shortcut_by_hand():
    """Two half jumps by the target network; the mean of their velocities. The rest is flow matching."""
    law = DyadicTimes(bootstrap=0.5, levels=4)
    method = made(Shortcut, RectifiedFlow(), 1.2, times=law)
    state = method.state(micro_batch(64))
    loss, _ = loss_and_gradient(method, micro_batch(64))
    total = 0.0
    for i in range(64):
        x = state.x_t[i : i + 1]
        t, s = state.times.t[i : i + 1], state.times.s[i : i + 1]
        length = (t - s).item()

        def u(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            if torch.equal(t, s):
                return 1.2 * exact_velocity(RectifiedFlow(), x, t)
            return 1.2 * (x - exact_map(RectifiedFlow(), x, t, s)) / (t - s)[:, None]

        target = (state.noise - state.x0)[i : i + 1]
        if length > 0:
            assert length in (1.0, 0.5, 0.25, 0.125) and (t.item() / length) % 1 == 0
            r = t - length / 2
            ends = (t, r) if length == 0.125 else (r, s)
            first = u(x, t, ends[0])
            target = 0.5 * (first + u(x - length / 2 * first, r, ends[1]))
        total += (u(x, t, s) - target).square().mean() / 64
    assert abs(loss - total) < 1e-12


def test_guidance_enters_shortcut_once():
    method = build(Shortcut, guidance_scale=1.5, times=DyadicTimes(bootstrap=1.0, levels=3))
    method.configure_model()
    with torch.no_grad():
        method.student.second_time.out.weight.normal_()
    draws = Draws(0, range(32), "test")
    state = method.state(MicroBatch(draws.normal("x0", (2,)), {"label": torch.arange(32) % CLASSES}, draws))
    guided = method.two_halves(state)
    method.guidance_scale = 1.0
    changed = (guided - method.two_halves(state)).abs().sum(1) > 1e-7
    assert torch.equal(changed, state.times.t - state.times.s < 0.3)


@pytest.mark.parametrize("middle", [0.5, 0.25])
def test_psd_by_hand(middle: float):
    """Sum over elements; weights of the legs are their lengths; the weight is learned from (t, s)."""
    t, s = 0.8, 0.3
    r = t + middle * (s - t)
    method = made(PSD, RectifiedFlow(), 1.2, times=Fixed(t, s, r))
    nn.init.constant_(method.log_weight.linear.bias, 0.7)
    method.log_weight.double()
    part = micro_batch()
    loss = method.student_loss(part)["flow_map"]
    gradient, bias = torch.autograd.grad(loss, [method.student.scale, method.log_weight.linear.bias])
    state, at = method.state(part), [torch.full((16,), v, dtype=torch.float64) for v in (t, r, s)]

    def u(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return 1.2 * (x - exact_map(RectifiedFlow(), x, t, s)) / (t - s)[:, None]

    first = u(state.x_t, at[0], at[1])
    second = u(state.x_t - (t - r) * first, at[1], at[2])
    output = u(state.x_t, at[0], at[2])
    difference = output - ((t - r) * first + (r - s) * second) / (t - s)
    error, weight = difference.square().sum(1), torch.exp(torch.tensor(0.7, dtype=torch.float64))
    assert abs(loss - (weight * error - 0.7).mean()) < 1e-7
    torch.testing.assert_close(gradient, (2 * weight * difference * output / 1.2).mean(0), rtol=1e-6, atol=1e-7)
    assert abs(bias - (weight * error - 1).mean()) < 1e-6


def test_lsd_by_hand():
    """Residual d/ds X - v(X, s); the gradient runs through the derivative and not through the velocity."""
    t, s, scale, h = 0.8, 0.3, 1.2, 1e-5
    method = made(LSD, RectifiedFlow(), scale, times=Fixed(t, s, s), learned_weight=False)
    loss, gradient = loss_and_gradient(method)
    x, at = method.state(micro_batch()).x_t, [torch.full((16,), v, dtype=torch.float64) for v in (t, s)]

    def moved(s: Tensor) -> Tensor:  # X - x, for the scale 1
        return exact_map(RectifiedFlow(), x, at[0], s) - x

    slope = (moved(at[1] + h) - moved(at[1] - h)) / (2 * h)
    there = scale * exact_velocity(RectifiedFlow(), x + scale * moved(at[1]), at[1])
    difference = scale * slope - there
    assert abs(loss - difference.square().sum(1).mean()) < 1e-8
    torch.testing.assert_close(gradient, (2 * difference * slope).mean(0), rtol=1e-6, atol=1e-8)


def test_the_gradient_of_lsd_runs_through_a_network_s_derivative():
    """Reverse over forward mode: against the same loss with a central difference in s (relative error 1e-6)."""
    gradients = []
    for exact in (True, False):
        settings = {"times": SortedTimes(LEVELS, diagonal=0.25), "learned_weight": False}
        method = LSD(student=partial(network, 3, RectifiedFlow(), second_time=True), **settings)
        method.configure_model()
        method.student.double()
        g = torch.Generator().manual_seed(0)
        for parameter in method.student.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
        draws = Draws(3, range(8), "test")
        x0 = draws.normal("x0", (2,), torch.float64)
        state = method.state(MicroBatch(x0, {"label": torch.arange(8) % CLASSES}, draws))
        t, s = state.times.t, state.times.s
        if exact:
            residual = method.residual(state)
        else:
            h = torch.full_like(s, 1e-5)
            moved = []
            for end in (s + h, s - h):
                u = method.predict(method.student, state.x_t, t, end, state).velocity
                moved.append((end - t)[:, None] * u)
            slope = (moved[0] - moved[1]) / (2 * h)[:, None]
            residual = slope - method.unless_still(state, method.velocity_after(state))
        residual.square().sum(1).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.student.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-6 * gradients[0].norm()


@pytest.mark.parametrize("cls", [LSD, PSD])
def test_the_diagonal_of_self_distillation_is_flow_matching(cls: type[FlowMapDistiller]):
    settings = {"times": SortedTimes(LEVELS, diagonal=1.0), "learned_weight": False}
    method = made(cls, RectifiedFlow(), 1.2, **settings)
    state = method.state(micro_batch())
    u = 1.2 * exact_velocity(RectifiedFlow(), state.x_t, state.times.t)
    difference = u - (state.noise - state.x0)
    loss, gradient = loss_and_gradient(method)
    assert abs(loss - difference.square().sum(1).mean()) < 1e-12
    torch.testing.assert_close(gradient, (2 * difference * u / 1.2).mean(0), rtol=1e-10, atol=1e-12)


def test_psd_on_dyadic_times_is_shortcut():
    """Specification 8.2, identity 5: the same targets and the same gradient, but for the shortest jumps."""
    law = DyadicTimes(bootstrap=0.7, levels=4)
    one = made(PSD, RectifiedFlow(), 1.2, times=law, learned_weight=False)
    other = made(Shortcut, RectifiedFlow(), 1.2, times=law)
    state = one.state(micro_batch(64))
    t, s = state.times.t, state.times.s
    longer = t - s > 1.5 * law.shortest
    assert 10 < int(longer.sum()) < 54
    found, expected = one.two_jumps(state), other.two_halves(state)
    assert (found - expected)[longer].abs().max() < 1e-12 and (found - expected)[~longer].abs().max() > 1e-3

    class Longer(DyadicTimes):
        """Without the shortest jumps."""

        def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
            return JumpTimes(*(torch.where(longer, time, t) for time in (t, s, state.times.r)))

    for method in (one, other):
        method.times = Longer(levels=4)
    (loss, gradient), (mean, expected) = (loss_and_gradient(method, micro_batch(64)) for method in (one, other))
    assert abs(loss - 3 * mean) < 1e-12, "the sum over three elements, not their mean"
    torch.testing.assert_close(gradient, 3 * expected, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------- oracles and coordinates


def test_mixed_velocity():
    """Omega = 1, kappa = 0 calls no network; dropped samples and times outside keep the plain velocity."""
    method = build(MeanFlow, velocity=MixedVelocity(0.4, 0.5, low=0.2, high=0.7), condition_dropout=0.3)
    method.configure_model()
    draws = Draws(0, range(64), "test")
    label = torch.arange(64) % CLASSES
    state = method.state(MicroBatch(draws.normal("x0", (2,)), {"label": label}, draws))
    asked = method.networks, state.x_t, state.times.t, state
    plain = DataVelocity().at(*asked)
    assert torch.equal(MixedVelocity().at(*asked), plain)
    null = {"label": torch.full_like(label, CLASSES)}
    own, without = (method.networks.diagonal(*asked[1:], condition) for condition in (None, null))
    mixed = 0.4 * plain + 0.5 * own + 0.1 * without
    active = (state.times.t >= 0.2) & (state.times.t <= 0.7) & ~state.dropped
    assert 0 < int(active.sum()) < 64 and bool((state.condition["label"][state.dropped] == CLASSES).all())
    torch.testing.assert_close(method.velocity.at(*asked), torch.where(active[:, None], mixed, plain))


def test_no_guidance_costs_no_call():
    """Specification 8.2, identity 10: with scale 1 the teacher is asked once, with omega = 1, kappa = 0 nobody is."""
    draws, label = Draws(0, range(6), "test"), torch.arange(6) % CLASSES
    part = MicroBatch(draws.normal("x0", (2,)), {"label": label}, draws)
    for velocity, calls in ((MixedVelocity(), 0), (MixedVelocity(base=TeacherVelocity()), 1), (TeacherVelocity(), 1)):
        for cls in (MeanFlow, SCM):
            method = build(cls, velocity=velocity, guidance=TeacherGuidance(1.0))
            method.configure_model()
            state, asked = method.state(part), []
            for net in (method.teacher, method.student):
                net.register_forward_pre_hook(lambda net, args, asked=asked: asked.append((net, len(args[0]))))
            here = method.networks, state.x_t, state.times.t, state
            found = velocity.at(*here)
            assert asked == [(method.teacher, 6)] * calls
            seen = method.networks.guided_teacher(state)
            plain = DataVelocity().at(*here) if calls == 0 else seen(state.x_t, state.times.t, state.condition)
            assert torch.equal(found, plain if calls == 0 else plain.velocity)
    teacher, x, t = network(0), torch.randn(6, 2), torch.ones(6, dtype=torch.float64)
    expected = teacher(x, t, {"label": label})
    asked = []
    teacher.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    assert torch.equal(guided(teacher, x, t, {"label": label}, 1.0).value, expected.value) and asked == [6]


def test_teacher_velocity_is_guided():
    method = build(SCM, guidance=TeacherGuidance(low=2.0))
    method.configure_model()
    draws = Draws(0, range(6), "test")
    label = torch.arange(6) % CLASSES
    state = method.state(MicroBatch(draws.normal("x0", (2,)), {"label": label}, draws))
    view = OnProcess(method.teacher, method.coordinates)
    cond, uncond = (view(state.x_t, state.times.t, {"label": y}).velocity for y in (label, label * 0 + CLASSES))
    torch.testing.assert_close(
        method.velocity.at(method.networks, state.x_t, state.times.t, state), 2 * cond - uncond, rtol=1e-4, atol=1e-4
    )
    assert method.networks.guided_teacher(state).inner.inner is method.teacher


NETWORKS = {
    "edm": lambda: network(0, EDM()).double(),
    "vp_noise": lambda: DiT(VP(), "noise", width=16, depth=1, heads=2).double(),
    "flow_velocity": lambda: DiT(width=16, depth=1, heads=2).double(),
    "gaussian": lambda: GaussianDenoiser(EDM(), MEAN, COVARIANCE),
}


@pytest.mark.parametrize("name", NETWORKS)
@by_process
def test_views_predict_the_same(name: str, process: Process):
    """EDM -> Trig, flow -> Trig and all others keep x0 and noise (specification 8.2, number 9)."""
    inner = NETWORKS[name]()
    g = torch.Generator().manual_seed(0)
    for parameter in inner.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    own = inner.process
    t = own.time(torch.tensor([0.05, 0.4, 1.0, 9.0], dtype=torch.float64))
    x0, noise = (torch.randn(4, *inner.sample_shape, generator=g, dtype=torch.float64) for _ in range(2))
    condition = inner.example_condition(4)
    expected = inner(own.add_noise(x0, noise, t), t, condition)
    there = process.time(own.ratio(t))
    found = OnProcess(inner, process)(process.add_noise(x0, noise, there), there, condition)
    for kind in ("x0", "noise"):
        assert (getattr(found, kind) - getattr(expected, kind)).abs().max() < 1e-9


def test_the_wrapper_of_flows_is_that_of_the_papers():
    """x0 = (x - sin t v) / (cos t + sin t) at t_rf = sin t / (cos t + sin t) for sigma_data = 1 (SANA-Sprint, rCM)."""
    inner = NETWORKS["flow_velocity"]()
    nn.init.normal_(inner.head.weight)
    t = torch.tensor([0.2, 0.8, 1.4], dtype=torch.float64)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = (torch.cos(t) + torch.sin(t))[:, None, None, None]
    v = inner(x / total, torch.sin(t) / total.flatten(), {}).velocity
    expected = (x - torch.sin(t)[:, None, None, None] * v) / total
    torch.testing.assert_close(OnProcess(inner, TrigFlow(1.0))(x, t, {}).x0, expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- students


@by_process
@pytest.mark.parametrize("steps", [1, 3])
def test_a_flow_map_samples_exactly_in_any_number_of_jumps(process: Process, steps: int):
    times = [float(process.time(torch.tensor(level, dtype=torch.float64))) for level in (5.0, 1.0, 0.2)[:steps]]
    student = ExactMap(process).requires_grad_(False)
    draws = Draws(0, range(5), "sample")
    x0 = JumpSampler(times).sample(student, draws, {}, dtype=torch.float64)
    t = torch.full((5,), times[0], dtype=torch.float64)
    start = process.start(draws.normal("noise", (3,), torch.float64), t)
    torch.testing.assert_close(
        x0, exact_map(process, start, t, torch.full_like(t, process.t_clean)), rtol=1e-8, atol=1e-8
    )


def test_a_stochastic_sampler_jumps_to_data():
    asked = []
    student = ExactMap(RectifiedFlow()).requires_grad_(False)
    student.register_forward_pre_hook(lambda _, args: asked.append(args[3][0].item()))
    RenoiseSampler([0.9, 0.5]).sample(student, Draws(0, range(2)), {}, dtype=torch.float64)
    JumpSampler([0.9, 0.5]).sample(student, Draws(0, range(2)), {}, dtype=torch.float64)
    assert asked == [0.0, 0.0, 0.5, 0.0]


@pytest.mark.parametrize("cls", [MeanFlow, LCM])
def test_adapters_keep_the_function_of_a_pretrained_network(cls: type[FlowMapDistiller]):
    method = build(cls, student=CopyOfTeacher())
    method.configure_model()
    x, t, label = torch.randn(6, 2), torch.full((6,), 2.0, dtype=torch.float64), {"label": torch.arange(6) % CLASSES}
    before = method.teacher(x, t, label).x0
    if cls is MeanFlow:
        assert method.student.takes_second_time and not method.teacher.takes_second_time
        after = method.student(x, t, label, 0.3 * t).x0
    else:
        after = method.student(x, t, {**label, "guidance": torch.full((6,), 8.0)}).x0
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_an_embedded_guidance_is_told_when_sampling():
    method = build(LCM, guidance=TeacherGuidance(2.0, 6.0, embedded=True, sampling=3.0))
    method.configure_model()
    seen = []
    method.student.register_forward_pre_hook(lambda _, args: seen.append(args[2]["guidance"]))
    method.sample([0, 1], {"label": torch.tensor([0, 1])})
    assert seen[0].tolist() == [3.0, 3.0]
    assert TeacherGuidance(2.0, 6.0).when_sampling() == 4.0


class NoSecondTime(GaussianDenoiser):
    """A network without adapters."""


def test_networks_without_adapters_are_named():
    factory = partial(NoSecondTime, EDM(), MEAN, COVARIANCE)
    with pytest.raises(UserError, match="NoSecondTime cannot take a second time"):
        MeanFlow(student=factory).configure_model()
    with pytest.raises(UserError, match="embedded"):
        LCM(student=factory, teacher=factory).configure_model()
    with pytest.raises(UserError, match="asks a teacher"):
        SCM(student=factory).configure_model()


@pytest.mark.parametrize("cls", [ECT, LSD, PSD, SCM, MeanFlow, Shortcut])
def test_passes_of_an_update_share_their_dropout(cls: type[FlowMapDistiller]):
    """Student and target, or derivative and student, draw the same masks."""
    labels = {"label": torch.arange(4)}

    def unet() -> Denoiser:
        torch.manual_seed(0)
        return UNet(EDM(), num_classes=4, dropout=0.4)

    method = cls(student=unet, teacher=unet)
    method.configure_model()
    # A mask is a function of the generator's state alone (test_tangents.py proves it for forward mode).
    states: dict[str, list[Tensor]] = {}
    for name, module in method.student.named_modules():
        if type(module).__name__ == "Dropout":
            module.register_forward_pre_hook(lambda *_, n=name: states.setdefault(n, []).append(torch.get_rng_state()))
    draws = Draws(0, range(4), "test")
    method.student_loss(MicroBatch(0.5 * draws.normal("x0", (1, 8, 8)), labels, draws))
    assert len(states) > 2
    for found in states.values():
        assert len(found) == (3 if cls in (LSD, PSD, Shortcut) else 2)
        assert all(torch.equal(state, found[0]) for state in found)
    assert not torch.equal(*[found[0] for found in states.values()][:2])


@pytest.mark.parametrize("derivative", [ForwardMode(), FiniteDifference()], ids=["forward", "differences"])
@pytest.mark.parametrize("diagonal", [0.6, 1.0], ids=["some_jump", "none_jumps"])
def test_the_derivative_is_taken_where_it_counts(derivative: Derivative, diagonal: float, monkeypatch: Any):
    """Asking for it on all rows gives the same loss and gradients, through dropout too; only rows that jump are asked.

    One is asked if none does: a sharded network must be called on all ranks.
    """

    def unet() -> Denoiser:
        torch.manual_seed(0)
        network = UNet(EDM(), num_classes=4, dropout=0.4, attention_resolutions=(4,), second_time=True)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        return network.double()

    times = SortedTimes(diagonal=diagonal)
    method = MeanFlow(student=unet, times=times, derivative=derivative, weight=AdaptiveWeight(power=0.5))
    method.configure_model()
    asked: list[int] = []
    method.student.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    draws = Draws(0, range(9), "test")
    part = MicroBatch(0.5 * draws.normal("x0", (1, 8, 8), torch.float64), {"label": torch.arange(9) % 4}, draws)
    moving = method.state(part).times
    jumps = int((moving.s < moving.t).sum())
    assert jumps in ({0} if diagonal == 1.0 else {2, 3, 4, 5})

    def loss_and_gradients() -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        (loss,) = method.student_loss(part).values()
        return loss.detach(), *torch.autograd.grad(loss, list(method.student.parameters()))

    passes = 1 if isinstance(derivative, ForwardMode) else 2
    some = loss_and_gradients()
    assert asked == [max(jumps, 1)] * passes + [9]
    asked.clear()
    monkeypatch.setattr("fastgen.methods.flow_maps.base.foreign_dropout", lambda _: True)
    for found, expected in zip(some, loss_and_gradients(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert asked == [9] * (passes + 1)


@pytest.mark.parametrize("cls", [Shortcut, PSD, LSD])
def test_targets_are_made_for_jumps_alone(cls: type[FlowMapDistiller], monkeypatch: Any):
    """Two calls for the samples that jump and one for all; asking for all gives the same loss and gradients."""

    def unet() -> Denoiser:
        torch.manual_seed(0)
        network = UNet(RectifiedFlow(), num_classes=4, dropout=0.4, attention_resolutions=(4,), second_time=True)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        return network.double()

    times = DyadicTimes(bootstrap=0.5) if cls is Shortcut else SortedTimes(diagonal=0.5)
    method = cls(student=unet, times=times)
    method.configure_model()
    draws = Draws(0, range(9), "test")
    part = MicroBatch(0.5 * draws.normal("x0", (1, 8, 8), torch.float64), {"label": torch.arange(9) % 4}, draws)
    moving = method.state(part).times
    jumps = int((moving.s < moving.t).sum())
    assert 0 < jumps < 9
    asked: list[int] = []
    method.student.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))

    def loss_and_gradients() -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        (loss,) = method.student_loss(part).values()
        return loss.detach(), *torch.autograd.grad(loss, list(method.student.parameters()))

    some = loss_and_gradients()
    assert asked == [jumps, jumps, 9]
    asked.clear()
    monkeypatch.setattr("fastgen.methods.flow_maps.base.foreign_dropout", lambda _: True)
    for found, expected in zip(some, loss_and_gradients(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert asked == [9, 9, 9]


def test_foreign_dropout_keeps_the_batch_whole():
    """The masks of torch's own dropout in a part of the batch are not those in the whole."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
    assert foreign_dropout(network)
    assert not foreign_dropout(network.eval())
    assert not foreign_dropout(nn.Sequential(nn.Dropout(0.0), Dropout(0.3)))


def test_masks_of_a_part_are_those_in_the_whole():
    layer, x, rows = Dropout(0.5), torch.ones(6, 50), torch.tensor([1, 4])
    torch.manual_seed(0)
    whole, after = layer(x), torch.get_rng_state()
    torch.manual_seed(0)
    with masks_of(layer, rows, 6):
        assert torch.equal(layer(x[rows]), whole[rows]) and torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(0)
    assert torch.equal(layer(x), whole) and 0 < int(whole.bool().sum()) < 300


def test_resume_keeps_the_stage(tmp_path: Any):
    """The stage of ECT follows the student updates of the checkpoint."""
    path = str(tmp_path / "half.ckpt")
    seen: list[tuple[int, int]] = []

    def method() -> ECT:
        result = build(ECT, times=EasyTimes(double=2))
        original = result.times.sample
        spy = lambda d, p, u: seen.append((result.iteration, u)) or original(d, p, u)  # noqa: E731
        object.__setattr__(result.times, "sample", spy)  # it is frozen
        return result

    trainer(5, StopAfter(5, 3, path)).fit(method(), ToyData(batch_size=4))
    assert seen == [(i, i) for i in range(5)]
    seen.clear()
    trainer(5).fit(method(), ToyData(batch_size=4), ckpt_path=path, weights_only=True)
    assert seen == [(3, 3), (4, 4)]


class Pictures(ToyData):
    """The labels of the toys with small images."""

    sample_kind = "image"

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        images = 0.5 * torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        label = torch.arange(48) % CLASSES
        return TensorSource(images, label), TensorSource(images[:8], label[:8])


@pytest.mark.parametrize("cls", [ECT, LSD, MeanFlow, PSD, SCM])
def test_dropout_is_a_function_of_the_seed(cls: type[FlowMapDistiller], tmp_path: Any):
    """Specification 8.2, identity 14: two runs have the same losses bit for bit, and so has a resumed one."""
    path = str(tmp_path / "half.ckpt")

    def run(seed: int = 0, ckpt_path: str | None = None, save: str | None = None, dropout: float = 0.4) -> list[float]:
        def unet() -> Denoiser:
            torch.manual_seed(0)
            return UNet(EDM(), width=8, num_classes=CLASSES, dropout=dropout)

        adam = partial(torch.optim.Adam, lr=1e-2)  # a head that starts at zero hides dropout until it has moved
        method, seen = cls(student=unet, teacher=unet, seed=seed, student_optimizer=adam), []
        original = method.losses

        def losses(role: str, part: MicroBatch) -> dict[str, Tensor]:
            found = original(role, part)
            seen.extend(value.item() for value in found.values())
            return found

        method.losses = losses  # type: ignore[method-assign]
        torch.manual_seed(torch.seed())  # global state must not matter
        saver = [StopAfter(4, 2, save)] if save else []
        trainer(4, *saver).fit(method, Pictures(batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        return seen

    straight = run(save=path)
    assert len(straight) == 4 and run() == straight and run(ckpt_path=path) == straight[2:]
    assert run(seed=1) != straight and run(dropout=0.0) != straight
