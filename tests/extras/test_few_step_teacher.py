"""Outputs and features of a few-step teacher, by hand in fp64; and K-DMD that is made with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from toys import CLASSES, build, network

from fastgen.denoisers.wrappers.from_teacher import CopyOfStudent
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import FewStepTeacher
from fastgen.methods import DMD2, KDMD
from fastgen.processes import EDM
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler, TrajectorySampler

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


def double(seed: int, **kwargs: Any) -> Any:
    return network(seed, **kwargs).double()


def made(cls: type = DMD2, *extras: FewStepTeacher, **kwargs: Any) -> Any:
    roles = {"teacher": partial(double, 0), "student": partial(double, 1), "critic": partial(double, 2)}
    method = build(cls, **roles | kwargs, **({"extras": list(extras)} if extras else {})).double()
    method.configure_model()
    method.double().__dict__["_trainer"] = type("", (), {"training": False, "global_step": 0})
    return method


def part(step: int = 0) -> MicroBatch:
    return MicroBatch(None, {"label": LABEL}, Draws(1, range(6), "train", step=step))


@pytest.mark.parametrize("expert", [None, 7])
def test_the_students_last_call_is_the_experts(expert: int | None):
    """``mean (v_expert - v)^2`` of v = noise - x0 at the input of the call that the other losses judge."""
    extra = FewStepTeacher(0.3, network="teacher" if expert is None else partial(double, expert))
    method, piece = made(DMD2, extra, sampler=RenoiseSampler([20.0, 2.0])), part(1)
    loss = method.losses("student", piece)["output"]
    rollout = piece.rollouts["student"]
    call = rollout.trajectory[-1]
    x, t = call.x_t.detach(), call.t
    wanted = (method.teacher if expert is None else double(expert))(x, t, {"label": LABEL}).x0.detach()
    one, other = ((x - x0) / t[:, None] - x0 for x0 in (rollout.x0, wanted))
    expected = 0.3 * (one - other).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    found = torch.autograd.grad(loss, list(method.student.parameters()), retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(expected, list(method.student.parameters()), allow_unused=True)
    for a, b in zip(found, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert not [name for name in method.state_dict() if "expert" in name]


def test_features_are_mapped_onto_the_experts():
    extra = FewStepTeacher(
        network=partial(double, 7, width=24), feature_weight=0.5, layer="blocks.1", student_layer="stem"
    )
    method, piece = made(DMD2, extra), part()
    assert [tuple(p.shape) for p in extra.projection.parameters()] == [(24, 16), (24,)]
    assert any(p is extra.projection[0].weight for p in method.trained_parameters["student"])
    losses = method.losses("student", piece)
    call, seen = piece.rollouts["student"].trajectory[-1], {}
    for name, net, layer in (("own", method.student, "stem"), ("expert", extra.expert, "blocks.1")):
        net.get_submodule(layer).register_forward_hook(lambda *a, name=name: seen.update({name: a[2]}))
        net(call.x_t.detach(), call.t, {"label": LABEL})
    mapped = seen["own"] @ extra.projection[0].weight.T + extra.projection[0].bias
    expected = 0.5 * (mapped - seen["expert"].detach()).square().mean()
    torch.testing.assert_close(losses["features"], expected, rtol=1e-9, atol=0)


def test_a_student_like_the_expert_has_nothing_to_learn():
    extra = FewStepTeacher(network=partial(double, 1))
    assert made(DMD2, extra).losses("student", part())["output"] < 1e-20
    with pytest.raises(UserError, match="does not tell its calls"):
        made(DMD2, extra, sampler=TrajectorySampler(steps=2)).losses("student", part())


def test_the_critic_of_k_dmd_begins_as_the_student():
    """Also where the student is another network than the teacher."""
    method = KDMD(teacher=partial(double, 0), student=partial(double, 1, width=8))
    method.configure_model()
    pairs = list(zip(method.critic.parameters(), method.student.parameters(), strict=True))
    assert pairs and all(torch.equal(a, b) and a is not b for a, b in pairs)
    assert CopyOfStudent().source == "student" and method.turns(0) == ("student", "critic")
    assert [type(extra) for extra in method.each_extra()] == [FewStepTeacher] and method.teacher.process == EDM()
