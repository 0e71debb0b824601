"""The real method classes on Gaussians, in fp64, against derivatives by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.exact.gaussians import GaussianDenoiser, MixtureDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import DMD2, ScoreDistiller, SiD
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.times import UniformTime

TOLERANCE = 1e-10
MEAN = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.9, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
CRITIC_MEAN = torch.tensor([-0.2, 0.4, 0.0], dtype=torch.float64)
CRITIC_COVARIANCE = torch.tensor([[0.4, 0.0, 0.1], [0.0, 0.7, 0.2], [0.1, 0.2, 0.6]], dtype=torch.float64)
A = torch.tensor([[0.8, 0.1, 0.0], [-0.3, 0.5, 0.2], [0.0, 0.4, 0.9]], dtype=torch.float64)
B = torch.tensor([0.1, 0.2, -0.6], dtype=torch.float64)
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP(), "flow": RectifiedFlow(), "trig": TrigFlow()}
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


class Generator(Denoiser):
    """x0 = A z + b with z = x_t / sigma, whatever the time."""

    def __init__(self, process: Process, a: Tensor = A, b: Tensor = B) -> None:
        super().__init__(process, "x0", (len(b),))
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.z: list[Tensor] = []

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        self.z.append((x_t / self.process.start(torch.ones_like(x_t), t)).detach())
        return self.z[-1] @ self.a.T + self.b


class LearnedGaussian(Denoiser):
    """The denoiser of a Gaussian whose mean and covariance are parameters; writes down what it is asked."""

    def __init__(self, process: Process, mean: Tensor = CRITIC_MEAN, covariance: Tensor = CRITIC_COVARIANCE) -> None:
        super().__init__(process, "x0", (len(mean),))
        self.mean, self.covariance = nn.Parameter(mean.clone()), nn.Parameter(covariance.clone())
        self.asked: list[tuple[Tensor, Tensor]] = []

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        self.asked.append((x_t.detach(), t))
        alpha, sigma = (c[:, None, None] for c in self.process.coefficients(t))
        marginal = alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.mean), dtype=torch.float64)
        offset = x_t[:, :, None] - alpha * self.mean[:, None]
        return self.mean + (alpha * self.covariance @ torch.linalg.solve(marginal, offset))[:, :, 0]


class TwoGaussians(Denoiser):
    """A conditional law (label 0) and an unconditional one (label 1), both Gaussian: guidance stays linear."""

    num_classes = 1

    def __init__(self, process: Process, laws: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(process, "x0", (len(laws[0][0]),))
        self.laws = nn.ModuleList(GaussianDenoiser(process, *law) for law in laws)

    def null_condition(self, condition: Condition) -> Condition:
        return {"label": torch.ones_like(condition["label"])}

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        first, second = (law.predict(x_t, t, {}) for law in self.laws)
        return torch.where(condition["label"][:, None] == 0, first, second)


def built(
    cls: type[ScoreDistiller],
    teacher: Callable[[], Denoiser],
    critic: Callable[[], Denoiser],
    student: Callable[[], Denoiser],
    **kwargs: Any,
) -> ScoreDistiller:
    method = cls(teacher=teacher, critic=critic, student=student, **kwargs)
    method.configure_model()
    return method


def on_gaussians(cls: type[ScoreDistiller], process: Process, **kwargs: Any) -> ScoreDistiller:
    return built(
        cls,
        partial(GaussianDenoiser, process, MEAN, COVARIANCE),
        partial(LearnedGaussian, process),
        partial(Generator, process),
        **kwargs,
    )


def micro_batch(count: int = 16, condition: Condition | None = None, step: int = 0) -> MicroBatch:
    return MicroBatch(None, condition or {}, Draws(5, range(count), "train", step=step))


class Asked:
    """What a network was called with, seen from outside."""

    def __init__(self, network: nn.Module) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        network.register_forward_pre_hook(lambda _, args: self.calls.append((args[0].detach(), args[1])))


def student_step(method: ScoreDistiller, part: MicroBatch) -> tuple[float, Tensor, Tensor, Tensor, Tensor]:
    """Backward of the student's loss; returns it and z, x, x_t, t (of one row per sample)."""
    asked = Asked(method.teacher)
    with method.only("student"):
        (loss,) = method.student_loss(part).values()
        loss.backward()
    z = method.student.z[-1]
    ((x_t, t),) = asked.calls
    return loss.item(), z, z @ method.student.a.detach().T + method.student.b.detach(), x_t[: len(z)], t[: len(z)]


def assert_generator_gradient(method: ScoreDistiller, per_sample: Tensor, z: Tensor) -> None:
    for parameter, expected in zip(
        (method.student.a, method.student.b), oracles.generator_gradient(per_sample, z), strict=True
    ):
        error = (parameter.grad - expected).norm() / expected.norm()
        assert error < TOLERANCE, error
    assert all(p.grad is None for p in method.critic.parameters())


def scores(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    real = oracles.gaussian_x0(MEAN, COVARIANCE, x_t, alpha, sigma)
    return real, oracles.gaussian_x0(CRITIC_MEAN, CRITIC_COVARIANCE, x_t, alpha, sigma)


@by_process
@pytest.mark.parametrize("times", [None, [0.9, 0.5, 0.2]], ids=["one-step", "three-steps"])
def test_dmd2_student(process: Process, times: list[float] | None):
    sampler = RenoiseSampler([fraction * process.t_max for fraction in times or (1.0,)])
    for step in range(1 if times is None else 4):
        method = on_gaussians(DMD2, process, sampler=sampler)
        loss, z, x, x_t, t = student_step(method, micro_batch(step=step))
        alpha, sigma = process.coefficients(t)
        real, fake = scores(x_t, alpha, sigma)
        gradient = oracles.dmd_x_gradient(x, real, fake)
        assert abs(loss - 0.5 * x.numel() * gradient.square().sum().item()) < 1e-9 * loss
        assert_generator_gradient(method, gradient, z)


@by_process
@pytest.mark.parametrize("a", [0.5, 1.0, 1.2])
def test_sid_student(process: Process, a: float):
    method = on_gaussians(SiD, process, alpha=a)
    loss, z, x, x_t, t = student_step(method, micro_batch())
    alpha, sigma = process.coefficients(t)
    real, fake = scores(x_t, alpha, sigma)
    slopes = [alpha[:, None, None] * oracles.gain(c, alpha, sigma) for c in (COVARIANCE, CRITIC_COVARIANCE)]
    gap = real - fake
    value = (gap * (real - x - a * gap) / oracles.normaliser(x, real)).sum() / len(x)
    assert abs(loss - 100 * value.item()) < 1e-9 * abs(loss)
    assert_generator_gradient(method, 100 * oracles.sid_x_gradient(x, real, fake, *slopes, a), z)


@by_process
def test_guided_dmd2_normalises_with_the_guided_prediction(process: Process):
    means = torch.tensor([[0.6, -0.2], [-0.5, 0.3], [0.0, 1.0]], dtype=torch.float64)
    stds = torch.tensor([0.3, 0.6, 0.2], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    moved, w, k = means + 0.3, 2.5, 1.4
    law = partial(MixtureDenoiser, process, std=stds, weights=weights, classes=[0, 1, 2])
    method = built(
        DMD2,
        partial(law, means),
        partial(law, moved),
        partial(Generator, process, A[:2, :2], B[:2]),
        guidance=Guidance(teacher=w, critic=k),
    )
    label = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    _, z, x, x_t, t = student_step(method, micro_batch(8, {"label": label}))
    alpha, sigma = process.coefficients(t)

    def guided(centres: Tensor, scale: float) -> Tensor:
        free = oracles.mixture_x0(centres, stds, weights, x_t, alpha, sigma)
        bound = torch.cat(
            [
                oracles.mixture_x0(centres[[y]], stds[[y]], weights[[y]], x_t[[i]], alpha[[i]], sigma[[i]])
                for i, y in enumerate(label.tolist())
            ]
        )
        return free + scale * (bound - free)

    assert_generator_gradient(method, oracles.dmd_x_gradient(x, guided(means, w), guided(moved, k)), z)


@by_process
def test_guided_sid(process: Process):
    """Long and short guidance: kappa4 on the teacher, kappa2 = kappa3 on the critic (arXiv 2406.01561)."""
    real_laws = [(MEAN, COVARIANCE), (MEAN - 0.4, COVARIANCE + 0.3 * torch.eye(3, dtype=torch.float64))]
    fake_laws = [(CRITIC_MEAN, CRITIC_COVARIANCE), (CRITIC_MEAN + 0.2, 0.5 * CRITIC_COVARIANCE)]
    method = built(
        SiD,
        partial(TwoGaussians, process, real_laws),
        partial(TwoGaussians, process, fake_laws),
        partial(Generator, process),
        guidance=Guidance(teacher=2.0, critic=1.5),
        alpha=1.0,
    )
    _, z, x, x_t, t = student_step(method, micro_batch(8, {"label": torch.zeros(8, dtype=torch.int64)}))
    alpha, sigma = process.coefficients(t)

    def guided(laws: list[tuple[Tensor, Tensor]], scale: float) -> tuple[Tensor, Tensor]:
        (bound, bound_slope), (free, free_slope) = (
            (
                oracles.gaussian_x0(mean, covariance, x_t, alpha, sigma),
                alpha[:, None, None] * oracles.gain(covariance, alpha, sigma),
            )
            for mean, covariance in laws
        )
        return free + scale * (bound - free), free_slope + scale * (bound_slope - free_slope)

    (real, real_slope), (fake, fake_slope) = guided(real_laws, 2.0), guided(fake_laws, 1.5)
    assert_generator_gradient(method, 100 * oracles.sid_x_gradient(x, real, fake, real_slope, fake_slope, 1.0), z)


@by_process
@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_scores_are_compared_at_renoised_student_samples(cls: type[ScoreDistiller], process: Process):
    """The noise is standard normal, independent of z, and the levels are those of the law."""
    method = on_gaussians(cls, process, renoise_time=UniformTime(0.1, 0.9))
    _, z, x, x_t, t = student_step(method, micro_batch(1500))
    alpha, sigma = (c[:, None] for c in process.coefficients(t))
    noise = (x_t - alpha * x) / sigma
    fraction = t / process.t_max
    if isinstance(process, EDM):  # uniform along the rho grid
        low, high = process.sigma_min ** (1 / 7), process.sigma_max ** (1 / 7)
        fraction = (t ** (1 / 7) - low) / (high - low)
    assert 0.1 - 1e-9 <= fraction.min() < 0.11 and 0.89 < fraction.max() <= 0.9
    for moment, expected in (
        (noise.T @ noise, torch.eye(3)),
        (z.T @ z, torch.eye(3)),
        (noise.T @ z, torch.zeros(3, 3)),
    ):
        assert (moment / 1500 - expected).abs().max() < 5 * 1.5 / 1500**0.5
    assert noise.mean(0).abs().max() < 4 / 1500**0.5 and z.mean(0).abs().max() < 4 / 1500**0.5


@by_process
@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_nothing_moves_at_the_optimum(cls: type[ScoreDistiller], process: Process):
    """A generator of the teacher's law with the exact critic has no gradient, sample by sample."""
    gradients = []
    for a, b, law in (
        (oracles.root(COVARIANCE), MEAN, (MEAN, COVARIANCE)),
        (A, B, (B, A @ A.T)),
    ):
        method = built(
            cls,
            partial(GaussianDenoiser, process, MEAN, COVARIANCE),
            partial(LearnedGaussian, process, *law),
            partial(Generator, process, a, b),
        )
        student_step(method, micro_batch(64))
        gradients.append(torch.cat([p.grad.flatten() for p in method.student.parameters()]).norm().item())
    assert gradients[0] < 1e-10 * gradients[1], gradients


@by_process
@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_exact_critics_pull_the_generator_to_the_teacher(cls: type[ScoreDistiller], process: Process):
    """Gradient descent with the critic always exact reaches the teacher's law; an alpha of 1 is unbiased."""
    method = on_gaussians(cls, process, **({"alpha": 1.0, "loss_scale": 1.0} if cls is SiD else {}))
    optimizer = torch.optim.Adam(method.student.parameters(), lr=0.05)
    first = None
    for i in range(60):
        a, b = method.student.a.detach(), method.student.b.detach()
        distance = ((b - MEAN).norm() + (a @ a.T - COVARIANCE).norm()).item()
        first = first or distance
        with torch.no_grad():
            method.critic.mean.copy_(b)
            method.critic.covariance.copy_(a @ a.T)
        optimizer.zero_grad()
        with method.only("student"):
            method.student_loss(micro_batch(64, step=0 if i % 2 else i))["match"].backward()
        optimizer.step()
    assert distance < 0.2 * first, (first, distance)


def critic_step(method: ScoreDistiller, part: MicroBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backward of the critic's loss; returns it and x, x_t, t."""
    with method.only("critic"):
        (loss,) = method.critic_loss(part).values()
        loss.backward()
    x = method.student.z[-1] @ method.student.a.detach().T + method.student.b.detach()
    ((x_t, t),) = method.critic.asked
    assert all(p.grad is None for p in method.student.parameters())
    return loss.detach(), x, x_t, t


@by_process
@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_critic_loss(cls: type[ScoreDistiller], process: Process):
    """EDM's weighted denoising of the student's samples: a mean in DMD2, summed over a sample in SiD."""
    method = on_gaussians(cls, process)
    loss, x, x_t, t = critic_step(method, micro_batch())
    alpha, sigma = process.coefficients(t)
    prediction = oracles.gaussian_x0(CRITIC_MEAN, CRITIC_COVARIANCE, x_t, alpha, sigma)
    weight = (alpha / sigma).square() + 4.0
    value, gradient = oracles.denoising_loss(prediction, x, weight, CRITIC_MEAN, CRITIC_COVARIANCE, alpha, sigma)
    factor = 3 if cls is SiD else 1
    assert abs(loss / (factor * value) - 1) < TOLERANCE
    assert (method.critic.mean.grad - factor * gradient).norm() < TOLERANCE * factor * gradient.norm()


@by_process
@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_the_exact_critic_is_where_the_critic_rests(cls: type[ScoreDistiller], process: Process):
    """There the gradient of its loss has mean zero; away from it, it points back."""
    count = 2000
    for shift, rests in ((0.0, True), (0.3, False)):
        method = built(
            cls,
            partial(GaussianDenoiser, process, MEAN, COVARIANCE),
            partial(LearnedGaussian, process, B + shift, A @ A.T),
            partial(Generator, process),
        )
        _, x, x_t, t = critic_step(method, micro_batch(count))
        alpha, sigma = process.coefficients(t)
        weight = (alpha / sigma).square() + 4.0
        prediction = oracles.gaussian_x0(B + shift, A @ A.T, x_t, alpha, sigma)
        slope = torch.eye(3, dtype=torch.float64) - alpha[:, None, None] * oracles.gain(A @ A.T, alpha, sigma)
        factor = 3 if cls is SiD else 1
        each = factor * 2 * oracles.times(slope.mT, weight[:, None] * (prediction - x)) / 3
        error = each.std(0) / count**0.5
        assert torch.allclose(each.mean(0), method.critic.mean.grad, rtol=1e-9, atol=1e-12)
        if rests:
            assert bool((method.critic.mean.grad.abs() < 4 * error).all())
        else:
            assert bool((method.critic.mean.grad > 5 * error).any())
            assert (method.critic.mean.grad * (torch.full((3,), shift))).sum() > 0
