"""The critic of what the student makes of noised real samples, by hand in fp64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from toys import CLASSES, FreeData, build, network, trainer

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import RealStates
from fastgen.methods import DMD2
from fastgen.processes import RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler

pytestmark = pytest.mark.filterwarnings("ignore")
FLOW, LABEL = RectifiedFlow(), torch.arange(6) % CLASSES


def double(seed: int) -> Any:
    return network(seed, FLOW).double()


def made(*extras: RealStates) -> Any:
    roles = {name: partial(double, i) for i, name in enumerate(("teacher", "student", "critic"))}
    method = build(DMD2, extras=list(extras), sampler=RenoiseSampler([1.0, 0.5]), **roles)
    method.configure_model()
    return method


def part() -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train"))


def states(**kwargs: Any) -> RealStates:
    return RealStates(critic=partial(double, 5), **kwargs)


def predicted(method: Any, piece: MicroBatch, role: str, node: float) -> torch.Tensor:
    """The student's x0 at (1 - node) y + node noise."""
    noise = piece.draws.scoped(f"real_critic/{role}/real").normal("noise", (2,), torch.float64)
    t = FLOW.position(torch.full((6,), node, dtype=torch.float64))
    return method.student((1 - t[:, None]) * piece.x0 + t[:, None] * noise, t, {"label": LABEL}).x0


def test_the_students_term_by_hand():
    """``0.3 * 0.5 mean g^2``, whose gradient in a prediction is ``0.3 g / numel``."""
    method, piece = made(states(weight=0.3)), part()
    loss = method.losses("student", piece)["match#2"]
    inputs, x = piece.score_inputs["real_critic"], predicted(method, piece, "student", 0.75)
    torch.testing.assert_close(inputs.rollout.x0, x)
    at = (inputs.x_t, inputs.t, {"label": LABEL})
    real, fake = method.teacher(*at).x0, method.real_critic(*at).x0
    g = ((fake - real) / (x - real).abs().mean(1, keepdim=True)).detach()
    torch.testing.assert_close(loss, 0.3 * 0.5 * g.square().mean())
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(loss, parameters)
    for one, other in zip(found, torch.autograd.grad((0.3 * g * x).sum() / x.numel(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_its_critic_learns_the_velocity_of_these_predictions():
    method, piece = made(states()), part()
    loss = method.losses("real_critic", piece)["denoising"]
    inputs, x = piece.denoised["real_critic"], predicted(method, piece, "real_critic", 0.75).detach()
    assert not inputs.rollout.x0.requires_grad
    torch.testing.assert_close(inputs.rollout.x0, x)
    x_t = (1 - inputs.t[:, None]) * x + inputs.t[:, None] * inputs.noise
    expected = (method.real_critic(x_t, inputs.t, {"label": LABEL}).velocity - (inputs.noise - x)).square().mean()
    torch.testing.assert_close(loss, expected)
    parameters = list(method.real_critic.parameters())
    for one, other in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_methods_own_terms_are_what_they_are_without_it():
    method, plain = made(states(weight=0.0)), made()
    for role in ("student", "critic"):
        with_it, without = method.losses(role, part()), plain.losses(role, part())
        assert all(torch.equal(with_it[name], value) for name, value in without.items())
    assert method.all_turns(0) == tuple(
        name for role in plain.all_turns(0) for name in ((role, "real_critic") if role == "critic" else (role,))
    )


def test_at_the_noisiest_level_real_samples_do_not_matter():
    method, one, other = made(states(nodes=[1.0])), part(), part()
    other.x0 = -other.x0
    assert torch.equal(*(method.losses("student", piece)["match#2"] for piece in (one, other)))


def test_a_teacher_and_a_critic_that_agree_ask_for_nothing():
    method = made(RealStates(critic=partial(double, 0)))
    assert method.losses("student", part())["match#2"] == 0.0


def test_it_says_that_data_are_missing():
    with pytest.raises(UserError, match="RealStates needs real samples"):
        trainer(2).fit(build(DMD2, extras=[RealStates()]), FreeData(batch_size=4))
