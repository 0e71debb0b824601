"""The relatives of DMD2 and SiD: their gradients by hand in fp64, and the identities between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import oracles
import pytest
import torch
from methods.test_closed_form import (
    COVARIANCE,
    CRITIC_COVARIANCE,
    CRITIC_MEAN,
    MEAN,
    Asked,
    Generator,
    TwoGaussians,
    assert_generator_gradient,
    built,
    by_process,
    micro_batch,
    on_gaussians,
)
from torch import Tensor
from toys import CLASSES, StirredLoRA, StopAfter, ToyData, build, network, trainer

from fastgen.conditions import Guidance
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.wrappers.guided import conditional_pair, guided
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import GAN
from fastgen.methods import (
    DMD2,
    TDM,
    DecoupledDMD,
    DiffInstruct,
    FDistill,
    FewStepSiD,
    ScoreDistiller,
    SiD,
    SwiftBrush,
)
from fastgen.objectives.distribution_matching import dmd_gradient, guidance_gradient, normalised, vsd_gradient
from fastgen.objectives.divergences import Divergence, ReverseKL
from fastgen.objectives.score_identity import InverseDistance
from fastgen.processes import EDM, VP, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler, TrajectorySampler
from fastgen.sampling.samplers.chain import first_time
from fastgen.times import Chain, UniformTime, WithinChain

LABEL = torch.arange(6) % CLASSES
pytestmark = pytest.mark.filterwarnings("ignore")


def spd(covariance: Tensor) -> Tensor:
    return covariance @ covariance.T


LAWS = {
    "teacher": [(MEAN, COVARIANCE), (MEAN - 0.4, spd(COVARIANCE) + 0.3 * torch.eye(3, dtype=torch.float64))],
    "critic": [(CRITIC_MEAN, CRITIC_COVARIANCE), (CRITIC_MEAN + 0.2, 0.5 * CRITIC_COVARIANCE)],
}


def on_two_gaussians(cls: type[ScoreDistiller], process: Process, **kwargs: Any) -> ScoreDistiller:
    """Teacher and critic with a conditional and an unconditional Gaussian law each."""
    method = cls(
        teacher=partial(TwoGaussians, process, LAWS["teacher"]),
        critic=partial(TwoGaussians, process, LAWS["critic"]),
        student=partial(Generator, process),
        **kwargs,
    )
    method.configure_model()
    return method


def labelled(count: int = 8, step: int = 0) -> MicroBatch:
    return micro_batch(count, {"label": torch.zeros(count, dtype=torch.int64)}, step)


def laws(role: str, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """x0 with and without the condition."""
    return tuple(oracles.gaussian_x0(mean, cov, x_t, alpha, sigma) for mean, cov in LAWS[role])  # type: ignore


def gradients(method: ScoreDistiller, part: MicroBatch) -> list[Tensor]:
    with method.only("student"):
        torch.stack(list(method.student_loss(part).values())).sum().backward()
    return [p.grad.clone() for p in method.student.parameters()]


def output(method: ScoreDistiller) -> tuple[Tensor, Tensor]:
    """Input and output of the student's last call."""
    z = method.student.z[-1]
    return z, z @ method.student.a.detach().T + method.student.b.detach()


# ---------------------------------------------------------------------- Decoupled DMD


@by_process
def test_coupled_it_is_dmd2(process: Process):
    guidance = Guidance(teacher=3.5, critic=1.2)
    one = gradients(on_two_gaussians(DMD2, process, guidance=guidance), labelled())
    other = gradients(on_two_gaussians(DecoupledDMD, process, guidance=guidance, coupled=True), labelled())
    for a, b in zip(one, other, strict=True):
        assert (a - b).norm() < 1e-12 * a.norm()


def test_the_two_terms_add_up_to_the_guided_gradient():
    x, cond, uncond, fake = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = uncond + 3.5 * (cond - uncond)
    total = normalised(fake - cond, x, real) + guidance_gradient(x, cond, uncond, 3.5, real)
    torch.testing.assert_close(total, dmd_gradient(x, real, fake), rtol=1e-12, atol=1e-12)


@by_process
@pytest.mark.parametrize("normaliser", ["none", "shared", "per_term"])
def test_decoupled_terms_by_hand(process: Process, normaliser: Any):
    """Per term with the floor they are the two losses of CDM's code, up to its factors."""
    w, floor = 3.5, 0.1 if normaliser == "per_term" else 0.0
    sampler = RenoiseSampler([0.9 * process.t_max, 0.5 * process.t_max])
    method = on_two_gaussians(
        DecoupledDMD,
        process,
        guidance=Guidance(teacher=w),
        sampler=sampler,
        matching_weight=0.7,
        guidance_weight=1.3,
        normaliser=normaliser,
        floor=floor,
    )
    asked, part = Asked(method.teacher), labelled()
    gradients(method, part)
    z, x = output(method)
    (x_dm, t_dm), (x_ca, t_ca) = asked.calls
    assert len(x_dm) == 8 and len(x_ca) == 16, "matching needs one call, guidance two"
    x_ca, t_ca = x_ca[:8], t_ca[:8]
    rollout = part.rollouts["student"]
    assert bool((t_ca <= rollout.t).all()), "guidance acts below the student's input"
    noise = [
        (x_t - alpha * x) / sigma
        for x_t, (alpha, sigma) in (
            (x_dm, (c[:, None] for c in process.coefficients(t_dm))),
            (x_ca, (c[:, None] for c in process.coefficients(t_ca))),
        )
    ]
    assert not torch.isclose(*noise).any(), "each term has its own noise"
    cond, _ = laws("teacher", x_dm, *process.coefficients(t_dm))
    fake, _ = laws("critic", x_dm, *process.coefficients(t_dm))
    first, direction = oracles.normaliser(x, cond).clamp(min=floor), fake - cond
    cond, uncond = laws("teacher", x_ca, *process.coefficients(t_ca))
    second = oracles.normaliser(x, cond).clamp(min=floor)
    one, two = {"none": (1.0, 1.0), "shared": (first, first), "per_term": (first, second)}[normaliser]
    matching, guidance = direction / one, -(w - 1) * (cond - uncond) / two
    assert_generator_gradient(method, (0.7 * matching + 1.3 * guidance) / x.numel(), z)


@by_process
def test_coupled_without_a_normaliser_it_is_the_guided_difference(process: Process):
    method = on_two_gaussians(DecoupledDMD, process, guidance=Guidance(teacher=3.5), coupled=True, normaliser="none")
    asked = Asked(method.teacher)
    gradients(method, labelled())
    z, x = output(method)
    ((x_t, t),) = asked.calls
    x_t, t = x_t[:8], t[:8]
    cond, uncond = laws("teacher", x_t, *process.coefficients(t))
    fake, _ = laws("critic", x_t, *process.coefficients(t))
    assert_generator_gradient(method, (fake - uncond - 3.5 * (cond - uncond)) / x.numel(), z)


def test_without_guidance_matching_is_left():
    method = on_two_gaussians(DecoupledDMD, EDM(), guidance=Guidance())
    assert list(method.student_loss(labelled())) == ["match"]
    one, other = gradients(method, labelled()), gradients(on_two_gaussians(DMD2, EDM()), labelled())
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(UserError, match="guidance"):
        on_two_gaussians(DecoupledDMD, EDM(), guidance=Guidance(teacher=0.0))


# ---------------------------------------------------------------------- few-step SiD


@by_process
def test_few_step_sid_is_sid_on_a_random_step(process: Process):
    times = [0.9 * process.t_max, 0.5 * process.t_max, 0.2 * process.t_max]
    law, counts = UniformTime(0.1, 0.9), {0: 0, 1: 0, 2: 0}
    for step in range(30):
        part = labelled(8, step)
        few = on_two_gaussians(
            FewStepSiD,
            process,
            sampler=RenoiseSampler(times),
            renoise_time=law,
            weight=InverseDistance(),
            guidance=Guidance(teacher=1.0, critic=0.0, critic_training=0.0),
        )
        asked = Asked(few.teacher)
        gradients(few, part)
        z, x = output(few)
        ((x_t, t),) = asked.calls
        alpha, sigma = process.coefficients(t)
        (real, _), (_, fake) = laws("teacher", x_t, alpha, sigma), laws("critic", x_t, alpha, sigma)
        slopes = [alpha[:, None, None] * oracles.gain(cov, alpha, sigma) for cov in (COVARIANCE, LAWS["critic"][1][1])]
        assert_generator_gradient(few, 100 * oracles.sid_x_gradient(x, real, fake, *slopes, 1.0), z)
        counts[part.rollouts["student"].step] += 1
    assert min(counts.values()) >= 4, counts


@by_process
def test_one_step_with_a_conditional_critic_is_sid(process: Process):
    same = {"sampler": RenoiseSampler(level=2.5), "renoise_time": UniformTime(0.1, 0.9), "guidance": Guidance()}
    one = gradients(on_two_gaussians(FewStepSiD, process, weight=InverseDistance(), **same), labelled())
    other = gradients(on_two_gaussians(SiD, process, alpha=1.0, **same), labelled())
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Labels:
    def __init__(self, network: torch.nn.Module) -> None:
        self.seen: list[list[int]] = []
        network.register_forward_pre_hook(lambda _, args: self.seen.append(args[2]["label"].tolist()))


def piece(x0: Tensor | None = None, step: int = 0) -> MicroBatch:
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train", step=step))


def made(cls: type[ScoreDistiller], **kwargs: Any) -> ScoreDistiller:
    method = build(cls, **kwargs)
    method.configure_model()
    return method


def test_zero_cfg_hides_the_condition_from_the_critic():
    method = made(FewStepSiD, guidance=Guidance(teacher=1.0, critic=0.0, critic_training=0.0))
    teacher, critic, student = (Labels(n) for n in (method.teacher, method.critic, method.student))
    method.student_loss(piece())
    method.critic_loss(piece())
    assert teacher.seen == [LABEL.tolist()] and critic.seen == [[CLASSES] * 6] * 2
    assert set(map(tuple, student.seen)) == {tuple(LABEL.tolist())}


def test_anti_cfg_extrapolates_away_from_the_condition():
    critic = network(1).double()
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.full((6,), 0.7, dtype=torch.float64)
    cond, uncond = conditional_pair(critic, x, t, {"label": LABEL})
    for scale in (-1.0, -0.5):
        anti = guided(critic, x, t, {"label": LABEL}, scale)
        torch.testing.assert_close(anti.x0, uncond.x0 + scale * (cond.x0 - uncond.x0))
        torch.testing.assert_close(anti.cond.x0, cond.x0)
        torch.testing.assert_close(anti.uncond.x0, uncond.x0)
    assert guided(critic, x, t, {"label": LABEL}, 0.0).cond is None
    assert guided(critic, x, t, {"label": LABEL}, 1.0).uncond is None


@pytest.mark.parametrize("kappa", [0.0, -1.0, 0.5])
def test_a_critic_s_scale_beside_an_unguided_teacher_guides_by_two_minus_it(kappa: float):
    """Where the critic is the teacher, ``mu_real - mu_fake`` is that of a guided teacher and a critic at scale 1."""
    both = partial(TwoGaussians, EDM(), LAWS["teacher"])
    student = partial(Generator, EDM())

    def gap(guidance: Guidance) -> Tensor:
        method, part = built(FewStepSiD, both, both, student, guidance=guidance), labelled()
        found = method.comparison(part)
        return found.real.x0 - found.fake.x0

    torch.testing.assert_close(gap(Guidance(1.0, kappa)), gap(Guidance(2.0 - kappa, 1.0)))


# ---------------------------------------------------------------------- SwiftBrush


def test_swiftbrush_on_vp_by_hand():
    """sigma^2 (noise_real - noise_fake), both guided; the critic's loss is mean alpha^2 (noise_fake - noise)^2."""
    process = VP()
    method = on_two_gaussians(SwiftBrush, process, guidance=Guidance(teacher=4.5, critic=4.5))
    asked = Asked(method.teacher)
    gradients(method, labelled())
    z, x = output(method)
    ((x_t, t),) = asked.calls
    x_t, t = x_t[:8], t[:8]
    alpha, sigma = process.coefficients(t)

    def noise(role: str) -> Tensor:
        cond, uncond = laws(role, x_t, alpha, sigma)
        return (x_t - alpha[:, None] * (uncond + 4.5 * (cond - uncond))) / sigma[:, None]

    per_sample = sigma[:, None].square() * (noise("teacher") - noise("critic")) / x.numel()
    assert_generator_gradient(method, per_sample, z)

    part = labelled()
    asked = Asked(method.critic)
    loss = method.critic_loss(part)["denoising"]
    ((x_t, t),) = asked.calls
    alpha, sigma = process.coefficients(t)
    x = part.rollouts["critic"].x0
    fake, _ = laws("critic", x_t, alpha, sigma)
    error = (x_t - alpha[:, None] * fake) / sigma[:, None] - (x_t - alpha[:, None] * x) / sigma[:, None]
    torch.testing.assert_close(loss, (alpha[:, None] * error).square().mean(), rtol=1e-9, atol=0.0)


def test_swiftbrush_weights_do_not_depend_on_the_process():
    """The same level on other processes, where sigma alone would have other values."""
    x, fake = torch.randn(2, 4, 3, dtype=torch.float64)
    level = torch.tensor([0.1, 1.0, 10.0, float("inf")], dtype=torch.float64)
    t = VP().time(level[:3])
    alpha, sigma = VP().coefficients(t)
    direction = vsd_gradient(x, fake, level[:, None])
    torch.testing.assert_close(direction[:3], (alpha * sigma)[:, None] * (fake - x)[:3], rtol=1e-6, atol=0.0)
    assert bool((direction[3] == 0).all())


def test_swiftbrush_trains_an_adapter_on_the_teacher(tmp_path):
    """One network, whose checkpoint holds no more than the student and the adapter; the run can be resumed."""
    path = str(tmp_path / "half.ckpt")
    method = build(SwiftBrush, critic=StirredLoRA(rank=2))
    trainer(4, StopAfter(4, 2, path)).fit(method, ToyData(batch_size=4))
    assert isinstance(method.critic, AdaptedDenoiser) and method.critic.base is method.teacher
    names = torch.load(path, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"student", "critic"}
    assert all(name.startswith("critic.changes.") for name in names if name.startswith("critic"))
    own = sum(p.numel() for p in method.critic.parameters())
    assert own == sum(v.numel() for k, v in names.items() if k.startswith("critic"))


@pytest.mark.parametrize("cls", [DMD2, SiD, TDM])
def test_student_and_critic_as_adapters_on_one_teacher(cls: type[ScoreDistiller], tmp_path):
    """Losses and gradients are those of networks of their own that start from the same weights."""
    kwargs: dict[str, Any] = {"guidance": Guidance(teacher=2.0)}
    if cls is TDM:
        kwargs["sampler"] = TrajectorySampler([20.0, 2.0])
    shared = build(cls, student=StirredLoRA(rank=2), critic=StirredLoRA(rank=3), **kwargs)
    shared.request_average("ema")
    shared.configure_model()
    assert shared.student.base is shared.critic.base is shared.teacher
    apart = build(cls, student=shared.student.merged, critic=shared.critic.merged, **kwargs)
    apart.configure_model()
    for copied in (apart.student, apart.critic):
        copied.requires_grad_(True)
    apart.trained_parameters = {"student": [*apart.student.parameters()], "critic": [*apart.critic.parameters()]}
    for role in ("student", "critic"):
        values = []
        for method in (shared, apart):
            with method.only(role):
                loss = next(iter(method.losses(role, piece()).values()))
                loss.backward()
            values.append(loss.detach())
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)
        adapted, copied = getattr(shared, role), getattr(apart, role)
        for path, change in adapted.by_path().items():
            reference = copied.get_submodule(path).weight.grad
            expected = change.scale * reference.flatten(1) @ change.down.weight.flatten(1).T
            error = (change.up.weight.grad - expected).norm()
            assert error < 1e-3 * expected.norm() + 1e-6, path
    method = build(cls, student=StirredLoRA(rank=2), critic=StirredLoRA(rank=3), **kwargs)
    method.request_average("ema")
    path = str(tmp_path / "end.ckpt")
    trainer(2, StopAfter(2, 2, path)).fit(method, ToyData(batch_size=4))
    names = torch.load(path, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"student", "critic", "averages"}
    assert all(".changes." in name for name in names)
    points = method.sample([1, 2], {"label": torch.tensor([0, 1])})
    assert points.shape == (2, 2) and bool(points.isfinite().all())


# ---------------------------------------------------------------------- TDM


@by_process
@pytest.mark.parametrize("index", [0, 1, 2])
def test_tdm_by_hand(process: Process, index: int):
    w, c = 4.5, 1e-3
    times = [0.9 * process.t_max, 0.6 * process.t_max, 0.3 * process.t_max]
    method = on_two_gaussians(TDM, process, sampler=TrajectorySampler(times), guidance=Guidance(teacher=w))
    asked, part = Asked(method.teacher), labelled(24, index)
    gradients(method, part)
    rollout = part.rollouts["student"]
    z, x = output(method)
    ((x_t, t),) = asked.calls
    x_t, t = x_t[:24], t[:24]
    ends = torch.tensor([*times[1:], process.t_clean], dtype=torch.float64)
    assert set(rollout.step.tolist()) == {0, 1, 2} and torch.equal(rollout.t_anchor, ends[rollout.step])
    assert bool((t <= rollout.t).all() and (t >= rollout.t_anchor).all()), "within the segment of the step"
    assert not rollout.anchor.requires_grad and rollout.x0.requires_grad
    alpha, sigma = process.coefficients(t)
    cond, uncond = laws("teacher", x_t, alpha, sigma)
    fake, _ = laws("critic", x_t, alpha, sigma)
    target = x + (cond - fake) + (w - 1.0) * (cond - uncond)
    normaliser = oracles.normaliser(x, uncond + w * (cond - uncond))
    slope = (x - target) / ((x - target).square() + c * c).sqrt() / normaliser / x.numel()
    # The student's input depends on its parameters through z = x_t / sigma only in earlier steps, which are cut.
    assert_generator_gradient(method, slope, z)


@by_process
def test_tdm_critic_by_hand(process: Process):
    times = [0.9 * process.t_max, 0.5 * process.t_max]
    method = on_two_gaussians(TDM, process, sampler=TrajectorySampler(times))
    asked, part = Asked(method.critic), labelled(16)
    loss = method.critic_loss(part)["denoising"]
    ((x_t, t),) = asked.calls
    rollout = part.rollouts["critic"]
    alpha, sigma = process.coefficients(t)
    alpha_s, sigma_s = process.coefficients(rollout.t_anchor)
    beta = (sigma.square() - (alpha / alpha_s * sigma_s).square()).sqrt()[:, None]
    noise = (x_t - (alpha / alpha_s)[:, None] * rollout.anchor) / beta
    drawn = part.draws.scoped("critic").normal("noise", (3,), torch.float64)
    torch.testing.assert_close(noise, drawn, rtol=1e-6, atol=1e-6)
    predicted = rollout.anchor - alpha_s[:, None] * rollout.x0  # sigma_s times the student's noise prediction
    mixed = ((alpha / alpha_s)[:, None] * predicted + beta * drawn) / sigma[:, None]
    importance = torch.exp(0.5 * (drawn.square().mean(1) - mixed.square().mean(1)))
    snr = (alpha / sigma).square().clamp(max=5.0)
    fake, _ = laws("critic", x_t, alpha, sigma)
    by_hand = ((snr * importance)[:, None] * (fake - rollout.x0).square()).mean()
    torch.testing.assert_close(loss, by_hand, rtol=1e-9, atol=0.0)
    last = rollout.step == 1
    torch.testing.assert_close(mixed[last], drawn[last], rtol=1e-9, atol=1e-9)  # from data, nothing is corrected


@by_process
def test_the_markov_kernel_from_data_is_plain_noising(process: Process):
    x, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64) * process.t_max
    clean = torch.full_like(t, process.t_clean)
    torch.testing.assert_close(
        process.renoise(x, clean, t, noise), process.add_noise(x, noise, t), rtol=1e-12, atol=1e-12
    )


# ---------------------------------------------------------------------- Diff-Instruct


@by_process
def test_diff_instruct_by_hand(process: Process):
    method = on_gaussians(DiffInstruct, process)
    asked = Asked(method.teacher)
    gradients(method, micro_batch())
    z, x = output(method)
    ((x_t, t),) = asked.calls
    alpha, sigma = process.coefficients(t)
    real = oracles.gaussian_x0(MEAN, COVARIANCE, x_t, alpha, sigma)
    fake = oracles.gaussian_x0(CRITIC_MEAN, CRITIC_COVARIANCE, x_t, alpha, sigma)
    assert_generator_gradient(method, (fake - real) / len(x), z)


# ---------------------------------------------------------------------- f-distill


def f_distill(**kwargs: Any) -> FDistill:
    return made(FDistill, **kwargs).double()  # type: ignore[return-value]


class Alone:
    """The trainer of a method that is tested without one."""

    training = False
    global_step = 0
    strategy = type("", (), {"reduce": staticmethod(lambda value, reduce_op: value)})


def f_parts(count: int) -> list[MicroBatch]:
    draws = Draws(1, range(24), "train")
    size = 24 // count
    return [
        MicroBatch(None, {"label": torch.arange(size) % CLASSES}, draws.part(i, i + size)) for i in range(0, 24, size)
    ]


def x_gradients(method: FDistill, parts: list[MicroBatch]) -> tuple[Tensor, Tensor]:
    """The gradient of the matching loss in x, and the gradient that DMD2 has there; of 24 samples."""
    method.__dict__["_trainer"] = Alone
    found, plain = [], []
    with method.only("student"):
        method.before_update("student", parts)
        for part in parts:
            loss = method.student_loss(part)["match"]
            inputs = part.score_inputs["critic"]
            x = inputs.rollout.x0
            (gradient,) = torch.autograd.grad(loss, x)
            asked = method.scores(part, inputs)
            found.append(gradient * len(x) / 24)
            plain.append(dmd_gradient(x.detach(), asked.real.x0, asked.fake.x0) / (24 * 2))
    return torch.cat(found), torch.cat(plain)


def test_reverse_kl_is_dmd2():
    found, plain = x_gradients(f_distill(divergence=ReverseKL()), f_parts(1))
    torch.testing.assert_close(found * (1.0 + 1e-6), plain, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("divergence", [kind() for kind in Divergence.__subclasses__()], ids=str)
def test_f_distill_by_hand(divergence: Divergence, pieces: int):
    method, parts = f_distill(divergence=divergence, memory=0.3), f_parts(pieces)
    scale = 8.0  # spreads the untrained discriminator's ratios
    with torch.no_grad():
        method.gan.heads[0].logit.weight.mul_(scale)
    found, plain = x_gradients(method, parts)
    ratios, bins = [], []
    for part in parts:
        inputs = part.score_inputs["critic"]
        x_t, t = inputs.x_t, inputs.t
        with torch.no_grad():
            logits = method.gan.judge(method, x_t, t, part.condition)[:, 0]
        ratios += [min(max(r, 0.1), 20.0) for r in logits.clamp(-10, 10).exp().tolist()]
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        bins += [min(int((s ** (1 / 7) - low) / (high - low) * 10), 9) for s in t.tolist()]
    assert max(ratios) > 1.5 * min(ratios)
    weights = []
    for r, b in zip(ratios, bins, strict=True):
        same = [other for other, bin in zip(ratios, bins, strict=True) if bin == b]
        mean = 0.3 * 1.0 + 0.7 * sum(same) / len(same)
        weights.append(divergence.weight(torch.tensor(r / (mean + 1e-6), dtype=torch.float64)).item())
        assert abs(method.ratio_means[b].item() - mean) < 1e-12
    mean = sum(weights) / len(weights)
    h = torch.tensor(weights, dtype=torch.float64)[:, None] / (mean + 1e-6)
    torch.testing.assert_close(found, h * plain, rtol=1e-9, atol=1e-15)
    assert all(method.ratio_means[b] == 1.0 for b in set(range(10)) - set(bins)), "bins without samples stay"


def test_the_statistics_are_saved():
    names = dict(made(FDistill).state_dict())
    assert names["ratio_means"].shape == (10,) and names["weight_mean"].shape == ()


@pytest.mark.parametrize("extras", [[], [GAN(), GAN(features="teacher")]])
def test_f_distill_needs_one_discriminator(extras: list[GAN]):
    with pytest.raises(UserError, match="exactly one GAN"):
        build(FDistill, extras=extras)


def test_a_divergence_is_an_object_of_its_class():
    with pytest.raises(UserError, match="divergence"):
        build(FDistill, divergence="kl")


# ---------------------------------------------------------------------- laws and samplers


@by_process
def test_positions_and_fractions_are_inverse(process: Process):
    u = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    torch.testing.assert_close(process.fraction(process.position(u)), u, rtol=1e-9, atol=1e-9)
    outside = torch.tensor([process.t_clean, process.t_max * 1.01], dtype=torch.float64)
    assert process.fraction(outside).tolist() == [0.0, 1.0]


@by_process
def test_laws_within_the_chain(process: Process):
    draws = Draws(0, range(4000))
    t = torch.full((4000,), 0.7 * process.t_max, dtype=torch.float64)
    s = torch.full((4000,), 0.2 * process.t_max, dtype=torch.float64)
    low, high = process.fraction(s[:1]).item(), process.fraction(t[:1]).item()
    for law, first, last in (
        (WithinChain(), low, high),
        (WithinChain(0.0, "student"), 0.02, high),
        (WithinChain("anchor", 1.0), low, 1.0),
        (WithinChain("anchor", 0.98, floor=0.3), max(low, 0.3), 0.98),
    ):
        u = process.fraction(law.given(Chain(t, s)).sample(draws, process))
        assert first - 1e-9 <= u.min() < first + 0.01 and last - 0.01 < u.max() <= last + 1e-9
        assert abs(u.mean() - 0.5 * (first + last)) < 4 * (last - first) / (12 * 4000) ** 0.5
    with pytest.raises(UserError, match="student's chain"):
        WithinChain().sample(draws, process)
    law = UniformTime()
    assert law.given(Chain(t, s)) is law


def test_a_number_of_steps_is_the_process_own_grid():
    vp, edm, flow = MLP(VP()), MLP(EDM()), MLP(RectifiedFlow())
    assert RenoiseSampler(level=2.5, steps=4).schedule(vp) == VP().grid(4, first_time(VP(), 2.5))
    assert RenoiseSampler(steps=3).trained_steps() == 3 and len(RenoiseSampler(steps=3).schedule(edm)) == 3
    assert RenoiseSampler(steps=2).schedule(flow, 1) == [1.0]
    assert TrajectorySampler().trained_steps() == 4 and TrajectorySampler([9.0, 1.0]).schedule(edm) == [9.0, 1.0]
    with pytest.raises(UserError, match="not both"):
        RenoiseSampler([9.0, 1.0], steps=4)
    with pytest.raises(UserError, match="steps must be an integer from 1"):
        RenoiseSampler(steps=0)


def test_bins_of_time_are_those_of_the_official_code():
    """With draws between 2 % and 98 % of EDM's grid, two thirds share the first of ten bins of the noise level."""
    t = UniformTime(0.02, 0.98).sample(Draws(0, range(20000)), EDM())
    shares = {}
    for axis in ("position", "time"):
        method = build(FDistill, bin_axis=axis)
        method.configure_model()
        shares[axis] = (method.bin(t).bincount(minlength=10) / 200.0).tolist()
    expected = [64.6, 10.0, 6.3, 4.7, 3.8, 3.2, 2.8, 2.4, 2.1, 0.0]
    assert max(abs(a - b) for a, b in zip(shares["time"], expected, strict=True)) < 0.8
    assert max(abs(share - 10.0) for share in shares["position"]) < 2.8
    flow = build(FDistill, bin_axis="time", **{n: partial(network, 0, RectifiedFlow()) for n in ROLES})
    flow.configure_model()
    t = torch.linspace(0.001, 0.999, 97, dtype=torch.float64)
    assert torch.equal(flow.bin(t), (10 * t).long())


ROLES = ("teacher", "student", "critic")
