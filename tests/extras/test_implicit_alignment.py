"""Implicit distribution alignment: what an update leaves in the critic, weight by weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from every_method import fit
from toys import StirredLoRA, build, network

from fastgen.errors import UserError
from fastgen.extras import ImplicitAlignment
from fastgen.methods import DMD2, SCM, PhasedDMD, ScoreDistiller

pytestmark = pytest.mark.filterwarnings("ignore")
STILL = partial(torch.optim.SGD, lr=0.0)


def made(cls: type = DMD2, **kwargs: Any) -> Any:
    method = build(cls, **kwargs)
    method.configure_model()
    return method


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


@pytest.mark.parametrize(("follows", "batches", "times"), [("student", 6, 2), ("critic", 3, 3)])
def test_the_critic_goes_a_share_of_the_way(follows: str, batches: int, times: int):
    """``critic <- decay critic + (1 - decay) student``, at rest otherwise; DMD2's student moves every fifth time."""
    extra = ImplicitAlignment(0.9, follows=follows)
    method = made(extras=[extra], critic_optimizer=STILL, student_optimizer=STILL)
    before, student = weights(method.critic), weights(method.student)
    fit(method, batches, precision="64-true")
    for p, q, s in zip(method.critic.parameters(), before, student, strict=True):
        expected = 0.9**times * q.double() + (1 - 0.9**times) * s.double()
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)


def test_adapters_are_mixed_as_adapters_and_the_teacher_rests():
    lora = StirredLoRA(rank=2)
    method = made(student=lora, critic=lora, extras=[ImplicitAlignment(0.5)], critic_optimizer=STILL)
    with torch.no_grad():
        for p in method.critic.parameters():
            p.zero_()
    teacher = weights(method.teacher)
    fit(method, 1)
    for p, s in zip(method.critic.parameters(), method.student.parameters(), strict=True):
        torch.testing.assert_close(p, 0.5 * s)
    assert all(map(torch.equal, weights(method.teacher), teacher))


def test_of_several_experts_the_one_that_learned_is_followed():
    method = made(PhasedDMD, extras=[ImplicitAlignment(0.5)], critic_optimizer=STILL)
    before = [weights(method.critic.expert(index)) for index in range(2)]
    fit(method, 1)
    moved = [not all(map(torch.equal, weights(method.critic.expert(i)), before[i])) for i in range(2)]
    assert moved == [True, False]


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"critic": partial(network, 1, width=8)}, "must be built alike, but '"),
        ({"student": StirredLoRA(rank=2), "critic": StirredLoRA(rank=3)}, "adapters of one rank"),
        ({"extras": [ImplicitAlignment(role="critic_2")]}, "trains no role 'critic_2'"),
        ({"extras": [ImplicitAlignment(follows="discriminator")]}, "Change 'follows'"),
    ],
)
def test_what_cannot_be_mixed_is_refused(kwargs: dict[str, Any], says: str):
    with pytest.raises(UserError, match=says):
        made(ScoreDistiller, **{"extras": [ImplicitAlignment()]} | kwargs)
    with pytest.raises(UserError, match="decay must be"):
        ImplicitAlignment(1.0)


def test_a_method_without_critic_is_told():
    with pytest.raises(UserError, match="trains no role 'critic'"):
        made(SCM, extras=[ImplicitAlignment()])
