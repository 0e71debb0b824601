"""GAN-only distillation: values by hand, R1 by central differences, frozen layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from toys import ToyData, build, trainer

from fastgen.callbacks import Health
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import ADM, GDD, LADD, Distiller
from fastgen.objectives.adversarial import gradient_penalty
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.times import UniformTime

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.tensor([0, 1, 2, 0])


def made(**kwargs: Any) -> GDD:
    method = build(GDD, **kwargs)
    method.configure_model()
    return method.double()


class Collapse(Callback):
    """From the eighth update on the student makes one sample."""

    def on_train_batch_start(self, trainer: Any, method: Any, *_: Any) -> None:
        if trainer.global_step >= 8:
            with torch.no_grad():
                for parameter in method.student.parameters():
                    parameter.zero_()


@pytest.mark.parametrize("cls", [GDD, LADD, ADM], ids=lambda cls: cls.__name__)
def test_the_collapse_of_a_student_that_a_discriminator_alone_teaches_is_found(cls: type[Distiller], tmp_path: Path):
    health, method = Health(every_n_steps=1), build(cls, sampler=RenoiseSampler([80.0]))
    loop = trainer(24, health, Collapse(), default_root_dir=tmp_path)
    loop.fit(method, ToyData(batch_size=8))
    assert "collapse" in health.verdict()
    assert float(loop.callback_metrics["health/sample_std"]) < 0.1


def part(step: int = 0) -> MicroBatch:
    x0 = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(0, range(4), "train", step=step))


def test_the_gradient_penalty_of_a_quadratic():
    """D = 1/2 x^T A x + b x has the gradient A x + b."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 3, generator=g, dtype=torch.float64), torch.randn(3, generator=g, dtype=torch.float64)
    a = (a + a.T).requires_grad_()
    x = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(0.5 * ((x @ a) * x).sum(1) + x @ b, x)
    slope = (x @ a.detach() + b).detach()
    torch.testing.assert_close(penalty.item(), 0.5 * slope.square().sum(1).mean().item())
    (found,) = torch.autograd.grad(penalty, a)
    left = slope.T @ x.detach() / 5
    torch.testing.assert_close(found, 0.5 * (left + left.T), rtol=1e-10, atol=1e-12)


def test_losses_are_sums_over_heads():
    """By hand, on samples of its own for each role: the discriminator's turn comes first."""
    method = made(layers=["blocks.0", "blocks.1"], r1_gamma=0.0)
    assert method.all_turns(0) == ("discriminator", "student")
    piece, gan = part(), method.extras[0]
    with method.only("discriminator"):
        found = method.losses("discriminator", piece)
    fake = piece.rollouts["discriminator"].x0
    real, fakes = gan.logits(
        method,
        (piece.x0, piece.condition, piece.draws.scoped("critic/gan/real")),
        (fake, piece.condition, piece.draws.scoped("critic/gan/fake")),
    )
    expected = (torch.log1p(torch.exp(-real)) + torch.log1p(torch.exp(fakes))).sum(1).mean()
    assert real.shape == (4, 2) and set(found) == {"gan"}
    torch.testing.assert_close(found["gan"], expected)
    with method.only("student"):
        (loss,) = method.losses("student", piece).values()
    own = piece.rollouts["student"].x0
    (logits,) = gan.logits(method, (own, piece.condition, piece.draws.scoped("student/gan")))
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-logits)).sum(1).mean())
    assert own.requires_grad and not fake.requires_grad and not torch.isclose(own, fake).any()


def test_r1_is_lazy_and_is_the_slope_at_real_samples():
    method = made(r1_gamma=0.2, r1_interval=4, time=UniformTime(0.3, 0.6))
    lazy = ["r1_exact" in method.losses("discriminator", part(step)) for step in range(6)]
    assert lazy == [True, False, False, False, True, False]
    piece, h = part(), 1e-5
    draws, gan = piece.draws.scoped("critic/gan/real"), method.extras[0]

    def logit(x0: Tensor) -> Tensor:
        return gan.logits(method, (x0, piece.condition, draws))[0].sum(1).detach()

    slopes = []
    for axis in torch.eye(2, dtype=torch.float64):
        slopes.append((logit(piece.x0 + h * axis) - logit(piece.x0 - h * axis)) / (2 * h))
    expected = 0.2 * 4 * 0.5 * torch.stack(slopes).square().sum(0).mean()
    found = method.losses("discriminator", piece)["r1_exact"]
    torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(method.losses("discriminator", part())["r1_exact"], expected, rtol=1e-6, atol=1e-12)


def test_frozen_layers_stay_as_the_teachers_and_out_of_the_optimizer():
    frozen = ["blocks.*.hidden.*", "stem.*"]
    method = build(GDD, frozen=frozen)
    run = trainer(3)
    method.configure_model()
    before = {name: p.detach().clone() for name, p in method.student.named_parameters()}
    run.fit(method, ToyData(batch_size=4))
    for name, parameter in method.student.named_parameters():
        stays = ".hidden." in name or name.startswith("stem.")
        assert torch.equal(before[name], parameter) == stays, name
        assert parameter.requires_grad != stays
    count = sum(p.numel() for group in run.optimizers[0].param_groups for p in group["params"])
    assert (
        count
        == sum(p.numel() for p in method.student.parameters() if p.requires_grad)
        < sum(p.numel() for p in method.student.parameters())
    )


@pytest.mark.parametrize(("frozen", "message"), [(["conv*"], "'conv\\*' matches no"), (["*"], "Every parameter")])
def test_patterns_that_cannot_be_meant_are_refused(frozen: list[str], message: str):
    with pytest.raises(UserError, match=message):
        made(frozen=frozen)
