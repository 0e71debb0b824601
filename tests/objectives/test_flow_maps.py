"""Every rule vanishes on the exact map; formulas agree with their papers' forms."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_maps import PROCESSES, ExactMap, exact_map, exact_velocity
from torch import Tensor

from fastgen.objectives.error_weights import AdaptiveWeight
from fastgen.objectives.flow_maps import (
    eulerian_tangent,
    head,
    jump_weights,
    lagrangian_target,
    normalised,
    two_leg_target,
    uncertainty_weighted,
)
from fastgen.objectives.tangents import ForwardMode
from fastgen.processes import Prediction, Process, RectifiedFlow, TrigFlow

by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(process: Process, *levels: float, count: int = 6) -> list[Tensor]:
    """Times at noise levels sigma / alpha, a little different for each sample."""
    spread = 1.0 + 0.1 * torch.arange(count, dtype=torch.float64) / count
    return [process.time(level * spread) for level in levels]


@by_process
def test_the_head_is_the_jump_of_the_process(process: Process):
    t, s = times(process, 2.0, 0.3)
    x, field = random(6, 3), random(6, 3, seed=1)
    a, b = (w[:, None] for w in jump_weights(process, t, s))
    jumped = process.jump(Prediction(process, x, t, field, "velocity"), s)
    torch.testing.assert_close(a * x + b * field, jumped, rtol=1e-11, atol=1e-11)
    still = jump_weights(process, t, t)
    assert torch.allclose(still[0], torch.ones_like(t)) and still[1].abs().max() < 1e-12 * t.abs().max()


def test_known_weights():
    t, s = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    for process, a, b in (
        (RectifiedFlow(), 1.0, -0.5),
        (PROCESSES["edm"], 1.0, -0.5),
        (TrigFlow(0.3), math.cos(0.5), -math.sin(0.5)),
    ):
        found = jump_weights(process, t, s)
        assert abs(found[0] - a) < 1e-15 and abs(found[1] - b) < 1e-15


@by_process
def test_derivatives_of_the_head(process: Process):
    t, s = times(process, 2.0, 0.3)
    h = 1e-5 * process.t_max
    for moving, (up, down) in {"t": ((t + h, s), (t - h, s)), "s": ((t, s + h), (t, s - h))}.items():
        found = head(process, t, s, moving)
        above, below = jump_weights(process, *up), jump_weights(process, *down)
        for value, one, other in ((found.a_dot, above[0], below[0]), (found.b_dot, above[1], below[1])):
            torch.testing.assert_close(value, (one - other) / (2 * h), rtol=1e-6, atol=1e-6)


@by_process
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_eulerian_rule_on_the_exact_map(process: Process, end: float):
    t, s = times(process, 2.0, 0.3)
    s = s if end else torch.full_like(t, process.t_clean)
    x, student = random(6, 3), ExactMap(process).requires_grad_(False)
    velocity, weights = exact_velocity(process, x, t), head(process, t, s)
    product = ForwardMode().product(
        lambda x, t: student.predict(x, t, {}, s), x, t, velocity, weights.a * weights.b, s, 1
    )
    for warmup, zero in ((1.0, True), (0.5, False)):
        g = eulerian_tangent(weights, x, velocity, student.predict(x, t, {}, s), product, warmup)
        assert (g.abs().max() < 1e-10 * velocity.abs().max()) == zero


@by_process
def test_lagrangian_rule_on_the_exact_map(process: Process):
    t, s = times(process, 2.0, 0.3)
    x, student = random(6, 3), ExactMap(process).requires_grad_(False)
    slope = torch.func.jvp(lambda s: student.predict(x, t, {}, s), (s,), (torch.ones_like(s),))[1]
    there = exact_velocity(process, exact_map(process, x, t, s), s)
    target = lagrangian_target(head(process, t, s, "s"), x, there, slope)
    torch.testing.assert_close(target, student.predict(x, t, {}, s), rtol=1e-9, atol=1e-9)


@by_process
def test_two_leg_rule_on_the_exact_map(process: Process):
    t, r, s = times(process, 2.0, 0.8, 0.3)
    x, student = random(6, 3), ExactMap(process).requires_grad_(False)
    second = student.predict(exact_map(process, x, t, r), r, {}, s)
    target = two_leg_target(process, t, r, s, x, student.predict(x, t, {}, r), second)
    torch.testing.assert_close(target, student.predict(x, t, {}, s), rtol=1e-9, atol=1e-9)


def test_two_legs_on_straight_paths():
    t, s = torch.tensor([0.9, 0.5], dtype=torch.float64), torch.tensor([0.3, 0.5], dtype=torch.float64)
    x, one, two = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)
    middle = two_leg_target(RectifiedFlow(), t, 0.5 * (t + s), s, x, one, two)
    torch.testing.assert_close(middle[0], (0.5 * (one + two))[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(middle[1], one[1]), "a jump that goes nowhere keeps its first velocity"
    r = t + 0.25 * (s - t)
    torch.testing.assert_close(
        two_leg_target(RectifiedFlow(), t, r, s, x, one, two)[0], (0.25 * one + 0.75 * two)[0], rtol=1e-12, atol=1e-12
    )


def test_mean_flow_and_scm_are_the_same_rule():
    """F + A df/dt is v - (t - s) dF/dt on the flow, and the tangent of algorithm 1 of sCM on TrigFlow."""
    t, s = torch.tensor([0.8, 0.6], dtype=torch.float64), torch.tensor([0.1, 0.6], dtype=torch.float64)
    x, v, field, rate = (random(2, 3, seed=i) for i in range(4))
    weights = head(RectifiedFlow(), t, s)
    product = (weights.a * weights.b)[:, None] * rate
    found = field + eulerian_tangent(weights, x, v, field, product)
    torch.testing.assert_close(found, v - (t - s)[:, None] * rate, rtol=1e-12, atol=1e-12)

    weights = head(TrigFlow(0.5), t, torch.zeros_like(t))
    cos, sin, rho = torch.cos(t)[:, None], torch.sin(t)[:, None], 0.3
    found = eulerian_tangent(weights, x, v, field, (weights.a * weights.b)[:, None] * rate, rho)
    # In the paper's letters field = sigma_d F, v = dx/dt, rate = sigma_d dF/dt.
    paper = -cos.square() * (field - v) - rho * (cos * sin * x + cos * sin * rate)
    torch.testing.assert_close(found, paper, rtol=1e-12, atol=1e-12)


def test_the_bootstrap_step_tends_to_the_tangent():
    """A [f(x_t, t) - f(x_r, r)] / (t - r) -> g for a map that is not exact: ECT's limit is sCT's tangent."""
    process = TrigFlow(0.5)
    (t,) = times(process, 2.0)
    s, x = torch.zeros_like(t), random(6, 3)
    student = ExactMap(process, scale=1.3).requires_grad_(False)
    weights, v = head(process, t, s), exact_velocity(process, x, t)

    def f(x: Tensor, t: Tensor) -> Tensor:
        a, b = (w[:, None] for w in jump_weights(process, t, s))
        return a * x + b * student.predict(x, t, {}, s)

    field = student.predict(x, t, {}, s)
    product = ForwardMode().product(
        lambda x, t: student.predict(x, t, {}, s), x, t, v, weights.a * weights.b, s, process.t_max
    )
    g = eulerian_tangent(weights, x, v, field, product)
    errors = []
    for step in (1e-2, 1e-3, 1e-4):
        r = t - step
        x_r = exact_map(process, x, t, r)
        errors.append((weights.a[:, None] * (f(x, t) - f(x_r, r)) / step - g).norm() / g.norm())
    assert errors[2] < 1e-3 and errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]


def test_normalised_tangents():
    g = random(4, 2, 5)
    norm = g.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(normalised(g, 0.1), g / (norm + 0.1))
    torch.testing.assert_close(normalised(g, 0.1, per_element=True), g / (norm / 10**0.5 + 0.1))
    assert not normalised(torch.zeros(2, 3)).isnan().any()


def test_weights():
    error = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    weight = AdaptiveWeight(c=0.1, power=0.5)(error, error)
    assert not weight.requires_grad
    torch.testing.assert_close(weight, torch.tensor([0.6, 2.1], dtype=torch.float64).rsqrt())
    log_weight = (-error.detach().log()).requires_grad_()
    uncertainty_weighted(error.detach(), log_weight).sum().backward()
    assert log_weight.grad.abs().max() < 1e-12, "the best weight is the inverse of the error"
