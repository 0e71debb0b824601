"""SiD's relatives in fp64: identities with SiD, closed forms, discriminators and real data."""

from __future__ import annotations

from functools import partial
from typing import Any

import oracles
import pytest
import torch
import torch.nn.functional as F
from every_method import fit
from methods.test_closed_form import COVARIANCE, CRITIC_COVARIANCE, CRITIC_MEAN, MEAN, by_process, on_gaussians
from torch import Tensor
from toys import CLASSES, FreeData, StopAfter, build, network, trainer

from fastgen.conditions import Guidance
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import SharedEncoder
from fastgen.methods import SIM, Distiller, RealUID, SiD, SiDA
from fastgen.objectives.metrics import PseudoHuber
from fastgen.objectives.score_forms import SiDForm, SIMForm
from fastgen.processes import EDM, Prediction, Process, RectifiedFlow
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


def part(x0: Tensor | None = None, step: int = 0) -> MicroBatch:
    if x0 is None:
        x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train", step=step))


def double(seed: int, **kwargs: Any):
    return network(seed, **kwargs).double()


def made(cls: type[Distiller], process: Process | None = None, **kwargs: Any) -> Any:
    roles = {name: partial(double, seed, process=process) for seed, name in enumerate(("teacher", "student", "critic"))}
    method = build(cls, **roles | kwargs)
    method.configure_model()
    return method


def assert_same_gradients(one: Tensor, other: Tensor, parameters: list[Tensor]) -> None:
    left, right = (
        torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) for value in (one, other)
    )
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- SIM


def gaussian(x: Tensor, sigma: float, mean: Tensor | float, variance: Tensor | float) -> Prediction:
    """The x0 prediction of N(mean, variance) at noise level ``sigma``."""
    x0 = mean + variance / (variance + sigma**2) * (x - mean)
    return Prediction(EDM(), x, torch.full((len(x),), sigma, dtype=torch.float64), x0, "x0")


def test_sim_is_the_gradient_of_its_distance():
    """Data N(0, 1), generator N(0.4, 0.8^2), sigma 0.7, c 0.3: E d(s_fake - s_real) by quadrature, d pseudo-Huber."""
    sigma, c = 0.7, 0.3
    nodes = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(2**16, dtype=torch.float64)
    z, noise = torch.erfinv(2 * nodes.clamp(1e-9, 1 - 1e-9) - 1).mul(2**0.5).unbind(1)
    mean, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.8))
    x = (mean + scale * z)[:, None]
    x_t = x + sigma * noise[:, None]
    real = gaussian(x_t, sigma, 0.0, 1.0)
    fake = gaussian(x_t, sigma, 0.4, 0.64)  # the critic's own parameters are constants
    loss = SIMForm(PseudoHuber(c * sigma**2))(x, real, fake) / sigma**2  # scores are (mu - x_t) / sigma^2
    found = torch.autograd.grad(loss, (mean, scale))
    assert abs(found[0].item() - 0.4674) < 2e-3 and abs(found[1].item() + 0.4734) < 2e-3


def test_sim_with_a_large_c_is_sid_with_alpha_one():
    x, x_t, t = torch.randn(6, 2).double().requires_grad_(), torch.randn(6, 2).double(), torch.full((6,), 1.3).double()
    real, fake = (double(seed)(x_t + x, t, {"label": LABEL}) for seed in (0, 2))
    omega = (x - real.x0).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
    large = 1e6
    (one,) = torch.autograd.grad(large * SIMForm(PseudoHuber(large))(x, real, fake), x, retain_graph=True)
    (other,) = torch.autograd.grad(SiDForm(1.0, 1.0)(x, real, fake, omega), x)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@by_process
def test_sim_by_hand(process: Process):
    """Value and gradient of the method itself, the generator's by its own parameters."""
    method = on_gaussians(SIM, process, metric=PseudoHuber(0.2, per_element=True))
    piece = MicroBatch(None, {}, Draws(5, range(16), "train"))
    with method.only("student"):
        (loss,) = method.student_loss(piece).values()
    inputs, (alpha, sigma) = piece.score_inputs["critic"], process.coefficients(piece.score_inputs["critic"].t)
    x, x_t = inputs.rollout.x0, inputs.x_t
    real = oracles.gaussian_x0(MEAN, COVARIANCE, x_t, alpha, sigma)
    fake = oracles.gaussian_x0(CRITIC_MEAN, CRITIC_COVARIANCE, x_t, alpha, sigma)
    gap = fake - real
    root = (gap.square().sum(1, keepdim=True) + 3 * 0.2**2).sqrt()
    expected = -(gap / root * (fake - x)).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    assert_same_gradients(loss, expected, list(method.student.parameters()))


# ---------------------------------------------------------------------- RealUID


def flow_velocities(piece: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
    """``noise - x`` of the student's samples, of the teacher and of the critic there."""
    inputs, both = piece.score_inputs["critic"], piece.comparisons["critic"]
    return inputs.noise - inputs.rollout.x0, both.real.noise - both.real.x0, both.fake.noise - both.fake.x0


@pytest.mark.parametrize("process", [RectifiedFlow(), EDM()], ids=["flow", "edm"])
def test_real_uid_without_data_is_twice_sid_with_alpha_one_half(process: Process):
    """In velocities, alpha = beta = 1: ``|v_r - v|^2 - |v_f - v|^2 = 2 (v_r - v_f) [(v_r - v) - (v_r - v_f) / 2]``."""
    method, piece = made(RealUID, process, alpha=1.0, beta=1.0), part()
    loss = method.student_loss(piece)["match"]
    v, real, fake = flow_velocities(piece)
    expected = (2.0 * (real - fake) * ((real - v) - 0.5 * (real - fake))).flatten(1).sum(1).mean()
    assert_same_gradients(loss, expected, list(method.student.parameters()))
    assert set(method.critic_loss(part())) == {"denoising"}


def test_real_uid_by_hand():
    method, piece = made(RealUID, RectifiedFlow(), alpha=0.9, beta=0.95), part()
    loss = method.student_loss(piece)["match"]
    v, real, fake = flow_velocities(piece)
    target = 0.95 / 0.9 * v
    expected = 0.9 * ((real - target).square() - (fake - target).square()).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert_same_gradients(loss, expected, list(method.student.parameters()))


@pytest.mark.parametrize(("alpha", "beta"), [(0.92, 0.94), (1.0, 0.96), (0.9, 1.0)])
def test_on_its_own_samples_as_data_real_uids_critic_learns_their_velocity(alpha: float, beta: float):
    """Where real and generated samples are the same, the shares add up to plain flow matching."""
    method = made(RealUID, RectifiedFlow(), alpha=alpha, beta=beta)
    x0 = method.rollout(part(step=3), "critic").x0.detach()
    piece = part(x0, step=3)
    losses = method.critic_loss(piece)
    inputs = piece.denoised["critic"]
    seen = method.critic(inputs.x_t, inputs.t, {"label": LABEL}).velocity
    expected = (seen - (inputs.noise - x0)).square().sum(1).mean()
    assert_same_gradients(sum(losses.values()), expected, list(method.critic.parameters()))


def test_real_uid_says_that_data_are_missing():
    with pytest.raises(UserError, match="real samples"):
        trainer(8).fit(build(RealUID), FreeData(batch_size=4))
    trainer(8, StopAfter(8)).fit(build(RealUID, alpha=1.0, beta=1.0), FreeData(batch_size=4))


# ---------------------------------------------------------------------- SiDA


def seen_features(method: Distiller, *call: Any) -> Tensor:
    """The channel mean of the critic's narrowest features, (B,) for a perceptron."""
    found: list[Tensor] = []
    handle = method.critic.get_submodule(method.critic.feature_path).register_forward_hook(
        lambda *a: found.append(a[2])
    )
    method.critic(*call)
    handle.remove()
    return found[0].mean(1)


def test_sida_is_half_of_sid_and_half_of_its_discriminator_at_the_same_scale():
    method, piece = made(SiDA, gan_start=0), part()
    losses = method.losses("student", piece)
    assert not list(method.extras[0].parameters()), "no parameters beside the critic's"
    inputs, found = piece.score_inputs["critic"], piece.comparisons["critic"]
    scale = 1.0 / (inputs.rollout.x0 - found.real.x0).detach().abs().mean(1)
    gap = found.real.x0 - found.fake.x0
    sid = 0.5 * 100.0 * (scale[:, None] * gap * ((found.real.x0 - inputs.rollout.x0) - gap)).sum(1).mean()
    logits = seen_features(method, inputs.x_t, inputs.t, {"label": LABEL}).clamp(-10, 10)
    gan = 0.5 * 0.01 * 2 * (F.softplus(-logits) * scale).mean()
    torch.testing.assert_close(losses["match"], sid)
    torch.testing.assert_close(losses["gan"], gan)
    assert_same_gradients(losses["match"] + losses["gan"], sid + gan, list(method.student.parameters()))


def test_sidas_discriminator_sees_real_and_generated_samples_under_one_noise():
    method, piece = made(SiDA), part()
    losses = method.losses("critic", piece)
    inputs = piece.denoised["critic"]
    noisy = method.student.process.add_noise(piece.x0, inputs.noise, inputs.t)
    at_real = seen_features(method, noisy, inputs.t, {"label": LABEL})
    at_fake = seen_features(method, inputs.x_t, inputs.t, {"label": LABEL})
    expected = 200.0 * 0.5 * (F.softplus(-at_real).mean() + F.softplus(at_fake).mean())
    torch.testing.assert_close(losses["gan"], expected)
    assert_same_gradients(losses["gan"], expected, list(method.critic.parameters()))


@pytest.mark.parametrize(("guidance", "rows"), [(Guidance(), 12), (Guidance(condition_dropout=0.5), 18)])
def test_sidas_discriminator_reads_the_student_where_the_critic_denoises_it(guidance: Guidance, rows: int):
    """The encoder sees six samples of the student and six of the data, once; samples without a condition once more."""
    method, seen = made(SiDA, guidance=guidance), []
    method.critic.get_submodule(method.critic.feature_path).register_forward_hook(lambda *a: seen.append(len(a[2])))
    losses = method.losses("critic", part())
    assert sum(seen) == rows and losses["gan"].requires_grad


def test_sidas_student_waits_for_the_discriminator():
    method = build(SiDA, gan_start=1)
    method.configure_model()
    assert set(method.losses("student", part())) == {"match"}
    assert set(method.losses("critic", part())) == {"denoising", "gan"}


def test_sidas_student_learns_from_logits_within_bounds():
    method, losses = made(SiDA, gan_start=0), []
    (extra,) = method.extras
    for size in (10.0, 50.0):
        extra.logits_at_scores = lambda method, part, size=size: torch.tensor([[size, -size]]).expand(len(LABEL), 2)
        losses.append(method.losses("student", part())["gan"])
    assert torch.equal(*losses)


def test_sida_is_sid_with_an_extra():
    one = made(SiDA, gan_start=0)
    other = made(SiD, alpha=1.0, loss_scale=50.0, extras=[SharedEncoder()])
    for role in ("student", "critic"):
        left, right = (method.losses(role, part()) for method in (one, other))
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_all_of_them_train():
    for method in (build(SIM), build(RealUID), build(SiDA, gan_start=0)):
        fit(method, 7)
