"""Data-Forcing: what it is without data, with the student's own samples for data, and where it comes to rest (fp64)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import torch
from every_method import fit
from toys import CLASSES, FreeData, build, network, trainer

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import GAN
from fastgen.methods import DMD2, DataForcing, ScoreDistiller
from fastgen.processes import RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES
Space = Literal["x0", "score"]


def made(cls: type[ScoreDistiller], **kwargs: Any) -> Any:
    roles = {
        name: lambda seed=seed: network(seed, RectifiedFlow()).double()
        for seed, name in enumerate(("teacher", "student", "critic"))
    }
    method = build(cls, **roles | kwargs)
    method.configure_model()
    return method


def part(x0: torch.Tensor | None = None) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if x0 is None else x0
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train"))


def gradient(method: Any, piece: MicroBatch) -> torch.Tensor:
    with method.only("student"):
        losses = method.student_loss(piece)
        found = torch.autograd.grad(losses["match"], list(method.student.parameters()))
    return torch.cat([losses["match"].detach().reshape(1), *(g.flatten() for g in found)])


@pytest.mark.parametrize("space", ["x0", "score"])
@pytest.mark.parametrize("forward_kl", [False, True])
def test_with_probability_zero_it_is_dmd2(space: Space, forward_kl: bool):
    forced = made(DataForcing, probability=0.0, pairing="unpaired", space=space, forward_kl=forward_kl)
    assert torch.equal(gradient(made(DMD2), part()), gradient(forced, part()))


@pytest.mark.parametrize("space", ["x0", "score"])
def test_with_the_students_own_samples_for_data_it_is_dmd2(space: Space):
    plain, piece = made(DMD2), part()
    expected = gradient(plain, piece)
    own = piece.rollouts["student"].x0.detach()
    forced = made(DataForcing, probability=1.0, pairing="unpaired", space=space)
    torch.testing.assert_close(gradient(forced, part(own)), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(gradient(forced, part()), expected)


@pytest.mark.parametrize(
    ("space", "probability", "stationary"),
    [("x0", 0.1, 0.905), ("x0", 0.3, 0.734), ("x0", 0.5, 0.577), ("score", 0.1, 1.106), ("score", 0.3, 1.363)],
)
def test_where_an_unpaired_gaussian_comes_to_rest(space: Space, probability: float, stationary: float):
    """The docstring's numbers: data N(0, 1), student a z, exact critic, noise level 1/2, no normaliser; exactly.

    With z, y, noise independent: x0 form ``E z (mu_f(x_t) - mu_r(.))``; scores: less what was noised.
    """
    alpha = sigma = 0.5

    def slope(a: float) -> float:
        kf, kr = alpha * a * a / (alpha**2 * a * a + sigma**2), alpha / (alpha**2 + sigma**2)
        own = alpha * a * (kf - kr)  # E z (mu_f - mu_r) at the student's x_t
        data = alpha * a * kf - (a if space == "score" else 0.0)  # E z mu_f, less E z x; mu_r - y know no z
        return (1 - probability) * own + probability * data

    low, high = 0.2, 3.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert abs(low - stationary) < 2e-3


@pytest.mark.parametrize("space", ["x0", "score"])
def test_the_comparison_by_hand(space: Space):
    method, piece = made(DataForcing, probability=0.5, space=space, sampler=RenoiseSampler([0.9, 0.4])), part()
    with method.only("student"):
        method.student_loss(piece)
    inputs, found = piece.score_inputs["critic"], piece.comparisons["critic"]
    rows = piece.draws.scoped("student/forcing").uniform("forced") < 0.5
    assert rows.any() and not rows.all()
    y_t = (1 - inputs.t)[:, None] * piece.x0 + inputs.t[:, None] * inputs.noise
    asked = torch.where(rows[:, None], y_t, inputs.x_t)
    real = method.teacher(asked, inputs.t, piece.condition).x0
    if space == "score":
        real = real + rows[:, None] * (inputs.rollout.x0 - piece.x0)
    torch.testing.assert_close(found.real.x0, real.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.fake.x0, method.critic(inputs.x_t, inputs.t, piece.condition).x0.detach())
    assert torch.equal(inputs.rollout.t, torch.tensor([0.9, 0.4], dtype=torch.float64)[inputs.rollout.step])


def test_a_discriminator_looks_at_the_students_sample_and_data_are_needed():
    gan = GAN(features="teacher", at_scores=True, weight=1.0, discriminator_weight=1.0, optimizer=torch.optim.Adam)
    method, piece = made(DataForcing, probability=1.0, extras=[gan]), part()
    method.extras.double()
    with method.only("student"):
        found = method.losses("student", piece)["gan"]
    inputs = piece.score_inputs["critic"]
    judged = method.extras[0].judge(method, inputs.x_t, inputs.t, piece.condition)
    torch.testing.assert_close(found, torch.nn.functional.softplus(-judged).mean())
    fit(build(DataForcing, schedule=partial(type(method.schedule), critic_updates=1)()), 2)
    with pytest.raises(UserError, match="'x0' is missing"):
        trainer(1).fit(build(DataForcing), FreeData(batch_size=4))
