"""ADM, ADP, LADD, ADD and one-step training without a teacher's score: their losses by hand (fp64)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_method import fit
from torch import Tensor, nn
from toys import CLASSES, FreeData, build, network, trainer

from fastgen.denoisers.networks.unet import UNet
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import DigitsBackbone
from fastgen.methods import ADD, ADM, ADP, LADD, Distiller, WithoutDistillation
from fastgen.objectives.adversarial import Hinge
from fastgen.objectives.divergences import JensenShannon
from fastgen.processes import EDM, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.times import PowerTime

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


def made(cls: type[Distiller], **kwargs: Any) -> Any:
    torch.manual_seed(0)  # the heads' start
    roles = {
        name: lambda seed=seed: network(seed, RectifiedFlow()).double()
        for seed, name in enumerate(("teacher", "student", "critic"))
    }
    method = build(cls, **{k: v for k, v in roles.items() if k != "critic" or cls is ADM}, **kwargs)
    method.configure_model()
    method.extras.double()
    return method


def part(noise: Tensor | None = None) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train"), noise=noise)


# ---------------------------------------------------------------------- ADM


def test_adm_judges_one_step_of_each_network():
    method, piece = made(ADM), part()
    gan = method.extras[0]
    with method.only("student"):
        (loss,) = method.losses("student", piece).values()
    inputs = piece.score_inputs["critic"]
    x_t, t = inputs.x_t, inputs.t
    s = (t - 1 / 64).clamp(min=5e-3)
    velocity = method.critic(x_t, t, piece.condition).velocity
    by_hand = -gan.judge(method, x_t - (t - s)[:, None] * velocity, s, piece.condition).mean()
    torch.testing.assert_close(loss, by_hand)
    parameters = list(method.student.parameters())
    for one, other in zip(
        torch.autograd.grad(loss, parameters, retain_graph=True), torch.autograd.grad(by_hand, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
    assert sum(g.abs().sum() for g in torch.autograd.grad(method.losses("student", part())["gan"], parameters)) > 0


def test_adm_tells_the_teachers_step_from_the_critics():
    method, piece = made(ADM), part()
    gan, seen = method.extras[0], []
    original = gan.judge

    def judge(*args: Any) -> Tensor:
        seen.append(original(*args))
        return seen[-1]

    gan.judge = judge
    with method.only("discriminator"):
        (loss,) = method.losses("discriminator", piece).values()
        loss.backward()
    real, fake = seen
    torch.testing.assert_close(loss, F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    assert not torch.isclose(real, fake).all()
    assert all(p.grad is None for p in (*method.critic.parameters(), *method.student.parameters()))
    assert all(p.grad is not None for p in gan.heads.parameters())


def test_adm_with_critic_and_teacher_alike_has_an_undecided_discriminator():
    """Both points are one; the hinge loss of equal logits d is ``relu(1 - d) + relu(1 + d) = 2`` where ``|d| <= 1``."""
    method, piece = made(ADM), part()
    method.critic.load_state_dict(method.teacher.state_dict())
    for head in method.extras[0].heads:
        nn.init.zeros_(head.logit.weight)
        nn.init.constant_(head.logit.bias, 0.3)
    assert method.losses("discriminator", piece)["gan"].item() == pytest.approx(2.0, abs=1e-12)


# ---------------------------------------------------------------------- ADP


def test_adp_predicts_the_solution_of_a_pair_from_between():
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    method, piece = made(ADP), part(noise)
    made_of = method.rollout(piece, "student")
    t = PowerTime(3.0).sample(piece.draws.scoped("student/rollout"), RectifiedFlow())
    x_t = (1 - t)[:, None] * piece.x0 + t[:, None] * noise
    torch.testing.assert_close(made_of.x0, method.student(x_t, t, piece.condition).x0)
    own = part()
    method.rollout(own, "student")
    assert own.pair is not None
    solved = method.solver.solve(method.teacher, own.pair[0], own.condition)
    torch.testing.assert_close(method.real_samples(own), solved)


def test_power_time_crowds_near_the_noise():
    t = PowerTime(3.0).sample(Draws(0, range(4000)), RectifiedFlow())
    assert abs(t.mean() - 0.75) < 0.01  # of 1 - u^3


def test_adp_has_a_discriminator_of_pixels_too():
    torch.manual_seed(0)
    make = lambda: UNet(EDM(), num_classes=10, width=8)  # noqa: E731
    method = ADP(teacher=make, backbones=[DigitsBackbone(["body.2", "body.9"])])
    method.configure_model()
    assert method.roles() == ("student", "discriminator", "pixel_discriminator")
    assert set(method.all_turns(0)) == set(method.roles()) and method.all_turns(0)[-1] == "student"
    x0, noise = torch.randn(2, 2, 1, 8, 8)
    piece = MicroBatch(x0, {"label": torch.tensor([1, 2])}, Draws(1, range(2), "train"), noise=noise)
    losses = method.losses("student", piece)
    judged = piece.rollouts["student"].x0, piece.condition, piece.draws.scoped("student/gan")
    logits, pixels = (extra.logits(method, judged)[0] for extra in method.extras)
    torch.testing.assert_close(losses["gan"], -0.85 * logits.mean())
    torch.testing.assert_close(losses["gan#2"], -0.15 * pixels.mean())
    assert pixels.shape == (2, 2)


# ---------------------------------------------------------------------- LADD, ADD


def test_ladd_is_asked_at_noised_data_and_has_the_hinge():
    sampler = RenoiseSampler([1.0, 0.75, 0.5, 0.25])
    method, piece = made(LADD, sampler=sampler), part()
    assert method.all_turns(0) == ("discriminator", "student")
    with method.only("student"):
        (loss,) = method.losses("student", piece).values()
    made_of = piece.rollouts["student"]
    draws = piece.draws.scoped("student/rollout")
    step, noise = draws.integers("step", 4), draws.normal("noise", (2,), torch.float64)
    t = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)[step]
    x_t = (1 - t)[:, None] * piece.x0 + t[:, None] * noise
    torch.testing.assert_close(made_of.x0, method.student(x_t, t, piece.condition).x0)
    (logits,) = method.extras[0].logits(method, (made_of.x0, piece.condition, piece.draws.scoped("student/gan")))
    torch.testing.assert_close(loss, -logits.mean())
    with method.only("discriminator"):
        own = part()
        method.losses("discriminator", own)["gan"].backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters()), "the heads learn, the teacher's layers do not"
    assert all(p.grad is not None for p in method.extras[0].heads.parameters())
    with pytest.raises(UserError, match="'x0' is missing"):
        trainer(1).fit(build(LADD), FreeData(batch_size=4))


def digits(cls: type[Distiller], **kwargs: Any) -> Any:
    torch.manual_seed(0)
    make = lambda: UNet(EDM(), num_classes=10, width=8)  # noqa: E731
    method = cls(teacher=make, backbones=[DigitsBackbone()], sampler=RenoiseSampler([20.0, 2.0]), **kwargs)
    method.configure_model()
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return method.double()


def images(count: int = 4) -> MicroBatch:
    x0 = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return MicroBatch(x0, {"label": torch.arange(count)}, Draws(1, range(count), "train"))


def test_add_is_drawn_to_the_teachers_x0():
    method, piece = digits(ADD, distance=2.5), images()
    with method.only("student"):
        losses = method.losses("student", piece)
    assert set(losses) == {"distance", "gan"}
    x, draws = piece.rollouts["student"].x0, piece.draws.scoped("student/teacher")
    t = method.time.sample(draws, EDM())
    x_t = x.detach() + t[:, None, None, None] * draws.normal("noise", (1, 8, 8), torch.float64)
    target = method.teacher(x_t, t, piece.condition).x0.detach()
    own = x.detach().requires_grad_()
    expected = 2.5 * (own - target).square().mean()  # alpha is 1 on EDM
    torch.testing.assert_close(losses["distance"], expected, rtol=1e-8, atol=0)
    (found,) = torch.autograd.grad(losses["distance"], x, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected, own)[0], rtol=1e-6, atol=1e-12)
    assert torch.autograd.grad(losses["gan"], x)[0].abs().sum() > 0
    assert set(digits(ADD, distance=0.0).losses("student", images())) == {"gan"}, "a GAN alone"


# ---------------------------------------------------------------------- without a teacher's score


def test_the_classifier_is_the_score_difference():
    method, piece = made(WithoutDistillation, divergence=JensenShannon()), part()
    with method.only("student"):
        (loss,) = method.losses("student", piece).values()
    x = piece.rollouts["student"].x0
    (logits,) = method.extras[0].logits(method, (x, piece.condition, piece.draws.scoped("student/gan")))
    r = logits.detach().exp().clamp(0.1, 20.0)
    expected = -(r / (1 + r) * logits).mean()
    torch.testing.assert_close(loss, expected)
    (found,), (wanted,) = (torch.autograd.grad(value, x, retain_graph=True) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)
    own = part()
    with method.only("discriminator"):
        value = method.losses("discriminator", own)["gan"]
    fake = own.rollouts["discriminator"].x0
    real_logits, fake_logits = method.extras[0].logits(
        method,
        (own.x0, own.condition, own.draws.scoped("critic/gan/real")),
        (fake, own.condition, own.draws.scoped("critic/gan/fake")),
    )
    torch.testing.assert_close(value, F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())


def test_the_teacher_is_never_asked():
    method = build(WithoutDistillation)
    method.configure_model()
    method.teacher.forward = None  # type: ignore[method-assign, assignment]
    metrics = fit(method, 2)
    assert metrics["student/grad_norm"] > 0


def test_the_losses_of_the_hinge_are_the_papers():
    assert made(LADD).extras[0].objective == Hinge() == made(ADM).extras[0].objective
