"""Published objectives as a few lines on the public hooks, with nothing changed in the engine (fp64).

What breadth needs of the engine is here as a test: SIM, RealUID, SenseFlow's implicit distribution alignment, SiDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_method import fit
from torch import Tensor
from toys import CLASSES, build, network

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras import GAN, Extra
from fastgen.methods import DMD2, Distiller, ScoreDistiller, SiD
from fastgen.objectives.score_forms import SiDForm, SIMForm
from fastgen.processes import EDM, Prediction, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.scores import Comparison, ScoreInputs
from fastgen.shapes import expand

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


def part(step: int = 0) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train", step=step))


def double(seed: int, **kwargs: Any):
    return network(seed, **kwargs).double()


def made(cls: type[Distiller], process: Any = None, **kwargs: Any) -> Any:
    roles = {name: partial(double, seed, process=process) for seed, name in enumerate(("teacher", "student", "critic"))}
    method = build(cls, **roles | kwargs)
    method.configure_model()
    return method


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
    loss = SIMForm(c * sigma**2)(x, real, fake) / sigma**2  # scores are (mu - x_t) / sigma^2
    found = torch.autograd.grad(loss, (mean, scale))
    assert abs(found[0].item() - 0.4674) < 2e-3 and abs(found[1].item() + 0.4734) < 2e-3


def test_sim_with_a_large_c_is_sid_with_alpha_one():
    x, x_t, t = torch.randn(6, 2).double().requires_grad_(), torch.randn(6, 2).double(), torch.full((6,), 1.3).double()
    real, fake = (double(seed)(x_t + x, t, {"label": LABEL}) for seed in (0, 2))
    sid = SiDForm(1.0, 1.0, "distance")
    omega = (x - real.x0).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
    (one,) = torch.autograd.grad(1e6 * SIMForm(1e6)(x, real, fake), x, retain_graph=True)
    (other,) = torch.autograd.grad(sid(x, real, fake, omega), x)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_sim_trains():
    fit(build(ScoreDistiller, form=SIMForm(1.0)), 2)


# ---------------------------------------------------------------------- RealUID


class RealUID(ScoreDistiller):
    """Universal inverse distillation with real data (arXiv 2509.22459): a min-max with shares alpha and beta.

    Student: ``alpha |v_real - (beta/alpha) v|^2 - alpha |v_fake - (beta/alpha) v|^2`` at its own samples x,
    v = noise - x; the critic also learns ``(1-alpha) |v_fake - (1-beta)/(1-alpha) v|^2`` at real ones.
    """

    def __init__(self, alpha: float = 0.92, beta: float = 0.94, **kwargs: Any) -> None:
        super().__init__(form=SiDForm(0.5), **kwargs)  # both networks are differentiated
        self.alpha, self.beta = alpha, beta

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        inputs, found = self.score_inputs(part), self.comparison(part)
        target = self.beta / self.alpha * (inputs.noise - inputs.rollout.x0)
        real, fake = ((one.velocity - target).square().flatten(1).sum(1).mean() for one in (found.real, found.fake))
        return {"match": self.alpha * (real - fake)}

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        target = self.beta / self.alpha * (inputs.noise - inputs.rollout.x0)
        return self.alpha * (prediction.velocity - target).square().flatten(1).sum(1).mean()

    def denoising_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        losses = super().denoising_losses(part)
        if self.alpha < 1.0 and part.x0 is not None:
            draws, process = part.draws.scoped("critic/real"), self.student.process
            t = self.critic_time.sample(draws, process)
            noise = draws.normal("noise", part.x0.shape[1:], part.x0.dtype)
            velocity = self.critic(process.add_noise(part.x0, noise, t), t, part.condition).velocity
            target = (1.0 - self.beta) / (1.0 - self.alpha) * (noise - part.x0)
            losses["real"] = (1.0 - self.alpha) * (velocity - target).square().flatten(1).sum(1).mean()
        return losses


def test_real_uid_without_data_is_twice_sid_with_alpha_one_half():
    """In velocities, alpha = beta = 1: ``|v_r - v|^2 - |v_f - v|^2 = 2 (v_r - v_f) [(v_r - v) - (v_r - v_f) / 2]``."""
    method, piece = made(RealUID, RectifiedFlow(), alpha=1.0, beta=1.0), part()
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(method.student_loss(piece)["match"], parameters, retain_graph=True)
    inputs, both = piece.score_inputs["critic"], piece.comparisons["critic"]
    v, real, fake = inputs.noise - inputs.rollout.x0, both.real.velocity, both.fake.velocity
    expected = (2.0 * (real - fake) * ((real - v) - 0.5 * (real - fake))).flatten(1).sum(1).mean()
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert set(method.critic_loss(part())) == {"denoising"}
    assert set(made(RealUID, RectifiedFlow()).critic_loss(part())) == {"denoising", "real"}


# ---------------------------------------------------------------------- IDA


class ImplicitAlignment(Extra):
    """Implicit distribution alignment (SenseFlow, arXiv 2506.00523): after the student's update the critic follows it.

    ``critic <- decay critic + (1 - decay) student``.
    """

    def __init__(self, decay: float = 0.97) -> None:
        super().__init__()
        self.decay = decay

    @torch.no_grad()
    def after_update(self, method: Distiller, role: str) -> None:
        if role == "student":
            for kept, new in zip(method.critic.parameters(), method.student.parameters(), strict=True):
                kept.lerp_(new.to(kept.dtype), 1.0 - self.decay)


def test_the_critic_follows_the_student():
    ends = []
    for decay in (1.0, 0.9):
        method = build(DMD2, extras=[ImplicitAlignment(decay)], critic_optimizer=partial(torch.optim.SGD, lr=0.0))
        method.configure_model()
        before = [p.detach().clone() for p in method.critic.parameters()]
        fit(method, 1)
        for p, q, s in zip(method.critic.parameters(), before, method.student.parameters(), strict=True):
            torch.testing.assert_close(p, decay * q + (1 - decay) * s)
        ends.append(torch.cat([p.detach().flatten() for p in method.critic.parameters()]))
    assert not torch.allclose(*ends)


# ---------------------------------------------------------------------- SiDA


class SharedEncoder(GAN):
    """SiDA's discriminator (arXiv 2410.14919): the mean over channels of the critic's own features, without a head.

    The student's term has SiD's scale of each sample, ``1 / mean |x - mu_real|``, and the size of a sample.
    """

    def build(self, method: Distiller) -> None:
        super().build(method)
        self.heads = torch.nn.ModuleList()

    def read(self, features: Mapping[str, Tensor]) -> Tensor:
        maps = [feature if feature.ndim > 2 else feature[..., None] for feature in features.values()]
        return torch.cat([one.mean(1).flatten(1) for one in maps], dim=1).clamp(-10.0, 10.0)

    def student_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        logits, term = self.logits_at_scores(method, part), method.score_term()
        assert term is not None
        x, real = term.score_inputs(part).rollout.x0, term.comparison(part).real.x0
        scale = (x - real).detach().abs().flatten(1).mean(1).clamp(min=1e-5).reciprocal()
        return {"gan": self.weight * x[0].numel() * (F.softplus(-logits).mean() * scale).mean()}


def test_sida_adds_its_discriminator_at_the_scale_of_sid():
    method, piece = made(SiD, alpha=1.0, extras=[SharedEncoder(weight=0.01, at_scores=True)]), part()
    losses = method.losses("student", piece)
    assert not list(method.extras[0].parameters()), "no parameters beside the critic's"
    inputs, found = piece.score_inputs["critic"], piece.comparisons["critic"]
    seen: list[Tensor] = []
    handle = method.critic.get_submodule(method.critic.feature_path).register_forward_hook(lambda *a: seen.append(a[2]))
    method.critic(inputs.x_t, inputs.t, {"label": LABEL})
    handle.remove()
    gan = F.softplus(-seen[0].mean(1).clamp(-10, 10)).mean()
    scale = 1.0 / (inputs.rollout.x0 - found.real.x0).abs().mean(1)
    torch.testing.assert_close(losses["gan"], 0.01 * 2 * gan * scale.mean())
    (gradient,) = torch.autograd.grad(losses["gan"], inputs.rollout.x0, retain_graph=True)
    assert gradient.abs().sum() > 0
    assert set(method.losses("critic", piece)) == {"denoising", "gan"}
    assert isinstance(found, Comparison) and expand(scale, inputs.x_t).shape == (6, 1)
    fit(build(SiD, extras=[SharedEncoder(at_scores=True)]), 2)
