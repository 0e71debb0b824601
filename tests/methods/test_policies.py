"""ArcFlow's momentum policies, dropout and temperature of components, GET's equilibrium; by hand, fp64."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from methods.test_pi_flow import FLOW, built, law, posterior_policy, states
from toys import network

from fastgen.denoisers import GETransformer
from fastgen.denoisers.networks.equilibrium import fixed_point
from fastgen.denoisers.wrappers.policies import DX, GMFlow, Momentum, MomentumPolicy
from fastgen.denoisers.wrappers.policy import PolicyDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import GET, ArcFlow, PiFlow
from fastgen.processes import EDM
from fastgen.randomness import Draws
from fastgen.sampling.samplers import PolicySampler

# ---------------------------------------------------------------------- momentum


def momentum(count: int = 12, seed: int = 0) -> MomentumPolicy:
    g = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(count, 3, 2, generator=g, dtype=torch.float64) for _ in range(2)]
    logits = torch.randn(count, 3, 1, generator=g, dtype=torch.float64)
    t = torch.full((count,), 0.9, dtype=torch.float64)
    return MomentumPolicy(states(count), t, drawn[0], drawn[1], logits)


def test_momentum_is_its_own_integral():
    """Against the sum by hand, and against many Euler steps of its velocity."""
    policy = momentum()
    t, s = torch.full((12,), 0.7, dtype=torch.float64), torch.full((12,), 0.25, dtype=torch.float64)
    x, mean = policy.follow(states(seed=5), t, s, 1)
    w = policy.logits.softmax(1)
    v, g = policy.velocities, policy.rates
    by_hand = (w * v * ((g * (0.9 - 0.25)).exp() - (g * (0.9 - 0.7)).exp()) / g).sum(1)
    torch.testing.assert_close(states(seed=5) - x, by_hand, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean, by_hand / 0.45, rtol=1e-9, atol=1e-12)
    steps, y = 4000, states(seed=5)
    for i in range(steps):
        now = t + (s - t) * (i + 0.5) / steps
        y = y - 0.45 / steps * policy.velocity(y, now)
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    again, local = policy.follow(states(seed=5), t, t, 3)
    assert torch.equal(again, states(seed=5))
    torch.testing.assert_close(local, policy.velocity(states(), t))
    torch.testing.assert_close(policy.x0(states(), t), states() - 0.7 * local)


def test_momentum_without_growth_is_smooth():
    policy = momentum()
    t, s = torch.full((12,), 0.7, dtype=torch.float64), torch.full((12,), 0.25, dtype=torch.float64)
    values = []
    for scale in (0.0, 1e-7, 1e-4):
        rates = (scale * policy.rates).requires_grad_()
        moved = MomentumPolicy(policy.x_source, policy.t_source, policy.velocities, rates, policy.logits)
        _, mean = moved.follow(states(), t, s, 1)
        (gradient,) = torch.autograd.grad(mean.sum(), rates)
        values.append((mean.detach(), gradient))
    for mean, gradient in values[1:]:
        torch.testing.assert_close(mean, values[0][0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(gradient, values[0][1], rtol=1e-3, atol=1e-3)
    expected = policy.logits.softmax(1) * policy.velocities * (0.9 - 0.7 + 0.5 * 0.45)
    torch.testing.assert_close(values[0][1], expected, rtol=1e-6, atol=1e-6)


def test_a_momentum_head():
    """K velocities beside the network's own, K - 1 rates, K weights; it begins as one Euler step of their mean."""
    family = Momentum(4, offset=0.0)
    assert family.outputs(2) == 8 + 6 + 4
    extra = torch.arange(18, dtype=torch.float64).expand(5, 18)
    t = torch.full((5,), 0.8, dtype=torch.float64)
    policy = family.policy(states(5), t, 0 * t, states(5, 1), extra)
    assert isinstance(policy, MomentumPolicy)
    torch.testing.assert_close(policy.velocities[:, 1], states(5, 1) + torch.tensor([2.0, 3.0]).double())
    assert policy.rates[0, 0].tolist() == [0.0, 0.0] and policy.rates[0, 2].tolist() == [10.0, 11.0]
    assert policy.logits[0, :, 0].tolist() == [14.0, 15.0, 16.0, 17.0]
    first = family.policy(states(5), t, 0 * t, states(5, 1), family.initial(2).double().expand(5, -1))
    x, _ = first.follow(states(5), t, 0 * t, 1)
    torch.testing.assert_close(x, states(5) - 0.8 * states(5, 1))
    assert Momentum(1).policy(states(5), t, 0 * t, states(5, 1), torch.zeros(5, 3).double()).components == 1


def test_arc_flow_imitates_its_teacher_by_hand():
    """One component, one state: pi-Flow's loss on a straight line, value and gradient."""
    method = ArcFlow(
        teacher=partial(law, FLOW), student=partial(network, 1, FLOW), policy=Momentum(1), states=1, window=0.0,
        mixing_updates=0, dropout=0.0, sampler=PolicySampler(steps=1),
    )  # fmt: skip
    method.configure_model()
    t = torch.ones(12, dtype=torch.float64)
    u = states(seed=2).requires_grad_()
    policy = method.policy.policy(states(), t, 0 * t, u, torch.zeros(12, 3, dtype=torch.float64))
    draws = Draws(0, range(12), "train")
    loss = method.imitation(policy, 0 * t, {}, draws)
    loss.backward()
    asked = 1 - draws.uniform("cut0")
    teacher = law()(states() - (1 - asked)[:, None] * u.detach(), asked).velocity
    torch.testing.assert_close(loss.item(), 0.5 * (u - teacher).square().mean().item(), rtol=1e-9, atol=0)
    torch.testing.assert_close(u.grad, (u.detach() - teacher) / u.numel(), rtol=1e-8, atol=1e-12)


# ---------------------------------------------------------------------- dropout and temperature


@pytest.mark.parametrize("make", [momentum, lambda: posterior_policy(states(), torch.full((12,), 0.9).double())])
def test_components_are_left_out_but_not_all(make: Any):
    policy = make()
    dropped = torch.zeros(12, 3, dtype=torch.bool)
    dropped[0, 1], dropped[1] = True, True
    thin = policy.without(dropped)
    weights = thin.logits.softmax(1)
    assert weights[0, 1].abs().max() == 0.0 and torch.equal(weights[1], policy.logits.softmax(1)[1])
    assert torch.equal(weights[2:], policy.logits.softmax(1)[2:])
    assert thin.x0(thin.x_source, 0.5 * thin.t_source).isfinite().all()


def test_dropout_changes_the_path_and_not_what_learns():
    """Of a policy whose components are all alike nothing is seen of it."""
    draws, t = Draws(0, range(12), "train"), torch.ones(12, dtype=torch.float64)
    losses = []
    for dropout in (0.0, 0.5):
        method = built(FLOW, dropout=dropout, states=2)
        alike = posterior_policy(states(), t)
        alike.means[:] = alike.means[:, :1]
        alike.logits[:] = 0.0
        losses.append(method.imitation(alike, 0 * t, {}, draws).item())
        thin = method.thinned(posterior_policy(states(), t), draws)
        share = (thin.logits == float("-inf")).double().mean().item()
        assert (share == 0.0) == (dropout == 0.0) and share < 0.6
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    with pytest.raises(UserError, match="DX mixes no components"):
        PiFlow(teacher=partial(law, FLOW), policy=DX(2), dropout=0.1)


def test_temperature_by_hand():
    policy = posterior_policy(states(), torch.full((12,), 0.9, dtype=torch.float64))
    cold = policy.tempered(0.3)
    torch.testing.assert_close(cold.variance, 0.3 * policy.variance)
    expected = policy.logits.softmax(1).pow(1 / 0.3)
    torch.testing.assert_close(cold.logits.softmax(1), expected / expected.sum(1, keepdim=True))


def test_the_last_segment_has_no_temperature():
    noise = states(6)
    label = {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    for steps, same in ((1, True), (2, False)):
        found = []
        for temperature in (1.0, 0.3):
            sampler = PolicySampler(steps=steps, substeps=8, temperature=temperature)
            method = built(FLOW, policy=GMFlow(3, offset=1.0), sampler=sampler)
            edges = sampler.edges(method.student)
            found.append(sampler.chain(method.student, noise, label, edges, temperature))
        assert torch.allclose(*found) == same
    grid = PolicyDenoiser(network(1, FLOW).double(), DX(2))
    with pytest.raises(UserError, match="DX mixes no components"):
        PolicySampler(temperature=0.3).sample(grid, Draws(0, range(2)), {"label": torch.tensor([0, 1])})


# ---------------------------------------------------------------------- GET


def test_the_gradient_of_a_fixed_point_is_that_of_many_iterations():
    """And of z = tanh(A z + b) by the implicit function theorem."""
    g = torch.Generator().manual_seed(0)
    a = (0.2 * torch.randn(4, 4, generator=g, dtype=torch.float64)).requires_grad_()
    b = torch.randn(3, 4, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.randn(3, 4, generator=g, dtype=torch.float64)

    def function(z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ a.T + b)

    z = fixed_point(function, torch.zeros(3, 4, dtype=torch.float64), 60, 60)
    torch.testing.assert_close(z, function(z), rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((weight * z).sum(), (a, b))
    unrolled = torch.zeros(3, 4, dtype=torch.float64)
    for _ in range(80):
        unrolled = function(unrolled)
    expected = torch.autograd.grad((weight * unrolled).sum(), (a, b))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    slope = 1 - z.detach().square()
    jacobian = slope[:, :, None] * a.detach()
    u = torch.linalg.solve((torch.eye(4, dtype=torch.float64) - jacobian).transpose(1, 2), weight[:, :, None])[:, :, 0]
    torch.testing.assert_close(found[1], slope * u, rtol=1e-9, atol=1e-11)
    plain = fixed_point(function, torch.zeros(3, 4, dtype=torch.float64), 60, 0)
    (short,) = torch.autograd.grad((weight * plain).sum(), b)
    torch.testing.assert_close(short, slope * weight, rtol=1e-9, atol=1e-11)


def test_a_fixed_point_needs_no_graph_where_nothing_learns():
    with torch.no_grad():
        z = fixed_point(lambda v: 0.5 * v + 1.0, torch.zeros(2, dtype=torch.float64), 60, 5)
    torch.testing.assert_close(z, torch.full((2,), 2.0, dtype=torch.float64))


def transformer(**kwargs: Any) -> GETransformer:
    torch.manual_seed(0)
    return GETransformer(EDM(), width=16, num_classes=10, injection_depth=1, depth=1, **kwargs).double()


def test_an_equilibrium_transformer_reads_noise_and_label_and_no_time():
    net = transformer()
    x, label = torch.randn(3, 1, 8, 8, dtype=torch.float64), {"label": torch.tensor([1, 2, 3])}
    for block in (*net.injection, *net.equilibrium):
        torch.nn.init.normal_(block.modulation.weight, std=0.2)
    one, other = (net(t * x, torch.full((3,), t, dtype=torch.float64), label).x0 for t in (80.0, 2.0))
    torch.testing.assert_close(one, other)
    alone = net(80.0 * x[1:2], torch.full((1,), 80.0, dtype=torch.float64), {"label": torch.tensor([2])}).x0
    torch.testing.assert_close(one[1:2], alone)
    t = torch.full((3,), 80.0, dtype=torch.float64)
    assert not torch.allclose(one, net(80.0 * x, t, {"label": torch.tensor([1, 2, 4])}).x0)
    with pytest.raises(UserError, match="one call"):
        net(x, t, label, 0.5 * t)
    with pytest.raises(UserError, match="not divisible"):
        GETransformer(resolution=9)
    with pytest.raises(UserError, match="divisible by 4"):
        GETransformer(width=18)


def test_more_iterations_come_nearer_to_the_fixed_point():
    """Of the network's own step, seen through its output."""
    x, label = torch.randn(2, 1, 8, 8, dtype=torch.float64), {"label": torch.tensor([1, 2])}
    t = torch.full((2,), 80.0, dtype=torch.float64)
    outputs = [transformer(iterations=n)(80.0 * x, t, label).x0 for n in (2, 8, 60)]
    first, second = ((o - outputs[2]).abs().max().item() for o in outputs[:2])
    assert second < 0.5 * first and math.isfinite(first)


def test_get_regresses_absolute_errors():
    method = GET(student=partial(transformer))
    method.configure_model()
    z, x = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    part = MicroBatch(x, {"label": torch.tensor([0, 1, 2, 3])}, Draws(0, range(4)), noise=z)
    (loss,) = method.student_loss(part).values()
    made = method.student(80.0 * z, torch.full((4,), 80.0, dtype=torch.float64), part.condition).x0
    torch.testing.assert_close(loss, (made - x).abs().mean())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.student.parameters())
