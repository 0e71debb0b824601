"""What recipes of flow maps change in the rules: rCM's warm-up, NVIDIA's weight, a difference in time only."""

from __future__ import annotations

import math

import pytest
import torch
from toys import ToyData, build, trainer

from fastgen.errors import UserError
from fastgen.methods import SCM, MeanFlow
from fastgen.objectives.error_weights import AdaptiveWeight, TangentWeight
from fastgen.objectives.flow_maps import eulerian_tangent, head, rcm_tangent
from fastgen.objectives.tangents import FiniteDifference, ForwardMode, SemiContinuous
from fastgen.processes import RectifiedFlow, TrigFlow


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_rcms_warm_up_by_hand(rho: float):
    t = torch.tensor([0.1, 0.8, 1.5], dtype=torch.float64)
    x, v, field, slope = (normal(3, 2, seed=seed) for seed in range(4))
    cos, sin = torch.cos(t)[:, None], torch.sin(t)[:, None]
    weights = head(TrigFlow(0.5), t, torch.zeros_like(t))
    product = -cos * sin * slope
    found = rcm_tangent(weights, x, v, field, product, rho)
    by_hand = -cos * (1 - rho**2 * sin**2).sqrt() * (field - v) - (rho * cos * sin * x + cos * sin * slope)
    torch.testing.assert_close(found, by_hand, rtol=1e-10, atol=1e-10)
    same = torch.allclose(found, eulerian_tangent(weights, x, v, field, product, rho))
    assert same == (rho == 1.0)


def test_rcms_warm_up_begins_as_a_weighted_mean_velocity():
    """At rho = 0 the fixed point is ``cot(t/2) int_0^t sec^2(u/2) / 2 F_teacher(x_u, u) du`` along the flow.

    Gaussian data of deviation s: x_u is proportional to sqrt(V(u)), V = s^2 cos^2 u + sin^2 u.
    """
    s2 = 0.36

    def variance(u: torch.Tensor) -> torch.Tensor:
        return s2 * torch.cos(u) ** 2 + torch.sin(u) ** 2

    def teacher(u: torch.Tensor) -> torch.Tensor:  # per unit of x_u
        return (1 - s2) * torch.sin(u) * torch.cos(u) / variance(u)

    def student(t: float) -> float:  # per unit of x_t
        u = torch.linspace(0, t, 20001, dtype=torch.float64)
        path = (variance(u) / variance(u[-1:])).sqrt()
        weight = 0.5 / torch.cos(u / 2) ** 2
        return float(torch.trapezoid(weight * teacher(u) * path, u)) / math.tan(t / 2)

    for t in (0.3, 0.9, 1.4):
        time, h = torch.tensor([t], dtype=torch.float64), 1e-4
        x, v, field = torch.ones(1, 1, dtype=torch.float64), teacher(time)[:, None], student(t)
        slope = field * float(v) + (student(t + h) - student(t - h)) / (2 * h)  # along the flow
        product = torch.full((1, 1), -math.cos(t) * math.sin(t) * slope, dtype=torch.float64)
        g = rcm_tangent(head(TrigFlow(1.0), time, 0 * time), x, v, torch.full((1, 1), field).double(), product, 0.0)
        assert abs(float(g)) < 1e-6
        assert abs(field - float(v)) > 1e-2, "sCM's warm-up begins at the teacher instead"


def test_the_tangents_weight_is_fastgens_gradient():
    u, tangent, c = normal(3, 4, 5).requires_grad_(), normal(3, 4, 5, seed=1), 10.0
    error = (u - (u + tangent).detach()).square().flatten(1).sum(1)
    (TangentWeight(c)(error, tangent) * error).sum().backward()
    scaled = tangent / 20**0.5
    norm = scaled.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(u.grad, -2 * scaled / (norm + c))


def test_a_difference_in_time_only_is_the_derivative():
    process = TrigFlow(0.5)
    mix = normal(3, 3, seed=5)

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ mix + torch.sin(3 * t)[:, None])

    x, v, t = normal(4, 3), normal(4, 3, seed=2), torch.tensor([0.2, 0.7, 1.1, 1.5], dtype=torch.float64)
    scale, low = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    exact = ForwardMode().product(field, x, t, v, scale, low, process.t_max)
    found = SemiContinuous(1e-6).product(field, x, t, v, scale, low, process.t_max)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    coarse = SemiContinuous(0.2).product(field, x, t, v, scale, low, process.t_max)
    both = FiniteDifference(0.2).product(field, x, t, v, scale, low, process.t_max)
    assert (coarse - exact).abs().max() > 1e-3 and not torch.allclose(coarse, both, atol=1e-3)
    still = SemiContinuous(1e-3).product(field, x, t, v, scale, t, process.t_max)
    assert still.isfinite().all(), "no room below"


def losses(cls: type, **options: object) -> dict[str, torch.Tensor]:
    method = build(cls, **options)
    values = {}
    original = method.map_loss

    def spy(state):
        values["t"], values["coordinates"] = state.times.t, method.coordinates
        values["loss"] = original(state)
        return values["loss"]

    method.map_loss = spy
    run = trainer(1)
    run.fit(method, ToyData(batch_size=1))
    return values


def test_the_prior_weight_is_a_power_of_the_noise_level():
    plain, half, one = (losses(SCM, learned_weight=False, warmup=0, prior_power=power) for power in (0.0, 0.5, 1.0))
    level = plain["coordinates"].ratio(plain["t"])
    assert torch.equal(plain["t"], one["t"])
    for power, other in ((0.5, half), (1.0, one)):
        ratio = other["loss"]["consistency"] / plain["loss"]["consistency"]
        torch.testing.assert_close(ratio.double(), level.pow(-power).mean(), rtol=1e-5, atol=0.0)


def test_the_forms_of_a_recipe_are_chosen():
    cold, warm = (losses(SCM, learned_weight=False, warmup=100, warmup_form=form) for form in ("scm", "rcm"))
    assert float(cold["loss"]["consistency"]) != float(warm["loss"]["consistency"])
    error, rms = (losses(MeanFlow, weight=weight) for weight in (AdaptiveWeight(10.0), TangentWeight(10.0)))
    assert float(error["loss"]["mean_flow"]) != float(rms["loss"]["mean_flow"])
    with pytest.raises(UserError, match="written in angles"):
        build(SCM, warmup_form="rcm", coordinates=RectifiedFlow()).configure_model()
    for power in (-1.0, math.nan):
        with pytest.raises(UserError, match="prior_power must be a finite number from 0"):
            build(SCM, prior_power=power)
