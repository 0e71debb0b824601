"""Bridges: exact ones by dense linear algebra, the inverse problem by hand, degraded data."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from every_method import fit
from methods.test_closed_form import (
    COVARIANCE,
    CRITIC_COVARIANCE,
    CRITIC_MEAN,
    MEAN,
    A,
    B,
    Generator,
    LearnedGaussian,
)
from toys import ToyData, build, network, trainer

from fastgen.data import AddedNoise, Degraded, MaskedCentre, Mixture, Pooled
from fastgen.denoisers import Bridge, GaussianDenoiser, RingMixture
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import IBMD
from fastgen.processes import EDM, VP, BrownianBridge, RectifiedFlow
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
V = 1.7


def degraded(count: int = 8, step: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Samples of the Gaussian and noisy copies of them."""
    draws = Draws(3, range(count), "test", step=step)
    x0 = MEAN + draws.normal("x0", (3,), torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    return x0, {"source": x0 + V**0.5 * draws.normal("n", (3,), torch.float64)}


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=["edm", "vp", "flow"])
def test_where_the_degradation_is_noise_any_denoiser_is_its_own_bridge(process):
    """E[x0 | x_t, x_T] of jointly Gaussian variables, whatever the process of the network."""
    bridge = Bridge(partial(GaussianDenoiser, process, MEAN, COVARIANCE), V).double()
    x0, condition = degraded()
    t = torch.linspace(0.05, 0.95, len(x0), dtype=torch.float64)
    y = bridge.process.add_noise(x0, torch.randn(len(x0), 3, dtype=torch.float64), t)
    found = bridge(y, t, condition).x0
    eye = torch.eye(3, dtype=torch.float64)
    for row, time in enumerate(t):
        alpha, variance = 1 - time, V * time * (1 - time)
        onto = torch.cat([alpha * eye, eye])  # y and x_T as functions of x0
        noise = torch.block_diag(variance * eye, V * eye)
        gain = COVARIANCE @ onto.T @ torch.linalg.inv(onto @ COVARIANCE @ onto.T + noise)
        seen = torch.cat([y[row] - alpha * MEAN, condition["source"][row] - MEAN])
        torch.testing.assert_close(found[row], MEAN + gain @ seen, rtol=1e-6, atol=1e-7)


def test_the_bridge_ends_where_it_should():
    process, x0 = BrownianBridge(V), torch.randn(4, 3, dtype=torch.float64)
    noise = torch.randn(4, 3, dtype=torch.float64)
    near = process.add_noise(x0, noise, torch.full((4,), 1e-12, dtype=torch.float64))
    torch.testing.assert_close(near, x0, atol=1e-5, rtol=0)
    far = process.add_noise(x0, noise, torch.full((4,), 1 - 1e-12, dtype=torch.float64))
    torch.testing.assert_close(far, torch.zeros_like(x0), atol=1e-5, rtol=0)
    half = process.sigma(torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(half, torch.tensor([0.5 * V**0.5], dtype=torch.float64))


def on_bridges(student_a: torch.Tensor = A) -> IBMD:
    method = IBMD(
        teacher=partial(Bridge, partial(GaussianDenoiser, EDM(), MEAN, COVARIANCE), V),
        critic=partial(Bridge, partial(LearnedGaussian, EDM(), CRITIC_MEAN, CRITIC_COVARIANCE), V),
        student=partial(Bridge, partial(Generator, EDM(), student_a, B), V),
    )
    method.configure_model()
    return method


def on_toys() -> IBMD:
    bridges = {r: partial(Bridge, partial(network, s), V) for s, r in enumerate(("teacher", "student", "critic"))}
    method = build(IBMD, **bridges)
    method.configure_model()
    return method


def test_the_inverse_problem_by_hand():
    """|mu_real - x|^2 - |mu_fake - x|^2 on the bridge, by networks that are asked about x_t themselves."""
    method = on_bridges()
    x0, condition = degraded()
    part = MicroBatch(x0, condition, Draws(5, range(8), "train"))
    loss = method.student_loss(part)["match"]
    inputs = part.score_inputs["critic"]
    x, t = inputs.rollout.x0, inputs.t
    x_t = (1 - t)[:, None] * x + t[:, None] * condition["source"]
    x_t = x_t + (V * t * (1 - t)).sqrt()[:, None] * inputs.noise
    level = (V * t).sqrt()
    real, fake = (bridge.inner(x_t, level, {}).x0 for bridge in (method.teacher, method.critic))
    expected = ((real - x).square() - (fake - x).square()).sum(1).mean()
    gap = real - fake
    second_order = 2 * (gap * ((real - x) - 0.5 * gap)).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, second_order, rtol=1e-9, atol=1e-9)
    parameters = list(method.student.parameters())
    for one, other in zip(
        torch.autograd.grad(loss, parameters, retain_graph=True),
        torch.autograd.grad(second_order, parameters, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    critic = method.critic_loss(part)["denoising"]
    inputs = part.denoised["critic"]
    seen = method.critic(inputs.x_t, inputs.t, condition).x0
    torch.testing.assert_close(critic, (seen - inputs.rollout.x0).square().sum(1).mean())


def test_one_call_begins_at_the_degraded_sample():
    method = on_toys()
    condition = {"source": torch.randn(8, 2), "label": torch.zeros(8, dtype=torch.int64)}
    asked = []
    method.student.inner.register_forward_pre_hook(lambda _, args: asked.append(args))
    method.latents(range(8), condition)
    x_t, level = asked[0][:2]
    assert (x_t - condition["source"]).abs().max() < 5 * (V * 1e-3) ** 0.5  # the bridge's noise at t = 0.999
    torch.testing.assert_close(level, torch.full_like(level, (0.999 * V) ** 0.5))


def test_a_bridge_without_degraded_samples_says_so():
    method = on_toys()
    with pytest.raises(UserError, match="Degraded"):
        trainer(1).fit(method, ToyData(batch_size=4))


def test_it_trains_and_samples_on_degraded_data():
    method = build(
        IBMD, **{r: partial(Bridge, partial(network, s)) for s, r in enumerate(("teacher", "student", "critic"))}
    )
    data = Degraded(ToyData(), AddedNoise(1.0), batch_size=4)
    trainer(2).fit(method, data)
    condition = data.evaluation_conditions([0, 1, 13])
    assert set(condition) == {"source", "label"} and torch.equal(condition["source"][1], condition["source"][2])
    assert method.sample([0, 1, 2], condition).shape == (3, 2)
    fit(build(IBMD), 2)


def test_degraded_samples_are_functions_of_their_numbers():
    law = partial(RingMixture, EDM())
    data = Degraded(Mixture(law, with_x0=True), AddedNoise(0.5))
    train, held_out, _ = data.sources
    one, other = train.batch([3, 4, 5]), train.batch([5])
    assert torch.equal(one["condition"]["source"][2:], other["condition"]["source"])
    assert not torch.equal(held_out.batch([5])["condition"]["source"], other["condition"]["source"])
    difference = torch.cat([(b := train.batch(range(2000)))["condition"]["source"] - b["x0"]])
    assert abs(difference.std().item() - 0.5) < 0.02
    with pytest.raises(UserError, match="with_x0"):
        Degraded(Mixture(law)).sources[0].batch([0])


def test_degradations():
    x0 = torch.arange(2 * 16, dtype=torch.float32).reshape(2, 1, 4, 4)
    draws = Draws(0, range(2), "x")
    pooled = Pooled(2)(x0, draws)
    assert torch.equal(pooled[0, 0, :2, :2], torch.full((2, 2), 2.5)) and pooled.shape == x0.shape
    masked = MaskedCentre(0.5)(x0, draws)
    changed = masked != x0
    assert changed[:, :, 1:3, 1:3].all() and changed.sum() == 8
    with pytest.raises(UserError, match="divides"):
        Pooled(3)(x0, draws)
