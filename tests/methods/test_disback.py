"""DisBack: the path that is recorded, and the way back along it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_method import fit
from toys import CLASSES, build

from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods import DMD2, DisBack
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(4) % CLASSES


def made(**kwargs: Any) -> DisBack:
    method = build(DisBack, **{"degradation": 6, "snapshots": 3, "interval": 2, "schedule": UpdateSchedule()} | kwargs)
    assert isinstance(method, DisBack)
    return method


def test_the_path_is_recorded_while_the_student_rests():
    method, seen = made(), []
    original = method.after_update

    def after(role: str) -> None:
        original(role)
        if role == "critic":
            seen.append([p.detach().clone() for p in method.critic.parameters()])

    method.after_update = after  # type: ignore[method-assign]
    method.configure_model()
    start = [p.detach().clone() for p in method.student.parameters()]
    fit(method, 6)
    assert method.global_step == 0 and all(map(torch.equal, start, method.student.parameters()))
    assert int(method.recorded) == 3
    for snapshot, update in zip(method.path, (2, 4, 6), strict=True):
        assert all(map(torch.equal, seen[update - 1], snapshot.parameters()))
        assert not any(p.requires_grad for p in snapshot.parameters())


def test_the_way_back_ends_at_the_teacher():
    """Student updates 0 and 1 look at the last snapshot but one, 2 and 3 at the first, then the teacher."""
    method, asked = made(), []
    original = method.target
    method.target = lambda: asked.append(original()) or asked[-1]  # type: ignore[method-assign, func-returns-value]
    fit(method, 12)
    names = ["teacher" if found is None else list(method.path).index(found) for found in asked]
    assert names == [1, 1, 0, 0, "teacher", "teacher"] and int(method.recorded) == 3


def test_at_the_end_its_direction_is_that_of_dmd2():
    method, other = (build(cls, **more) for cls, more in ((DisBack, {"interval": 1}), (DMD2, {})))
    losses = []
    for one in (method, other):
        one.configure_model()
        one.loaded_updates = 10
        part = MicroBatch(None, {"label": LABEL}, Draws(1, range(4), "train"))
        losses.append(one.student_loss(part)["match"])
    assert torch.equal(*losses)


def test_against_a_snapshot_by_hand():
    method = made()
    method.configure_model()
    method.recorded.fill_(2)
    with torch.no_grad():
        for p in method.path[0].parameters():
            p.add_(0.1)
    part = MicroBatch(None, {"label": LABEL}, Draws(1, range(4), "train"))
    loss = method.student_loss(part)["match"]
    inputs = part.score_inputs["critic"]
    x, real, fake = (
        inputs.rollout.x0.detach(),
        method.path[0](inputs.x_t, inputs.t, part.condition).x0,
        method.critic(inputs.x_t, inputs.t, part.condition).x0,
    )
    g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    torch.testing.assert_close(loss, 0.5 * g.square().mean())


def test_snapshots_of_an_adapter_are_adapters():
    method = made(critic=LoRA(rank=2))
    method.configure_model()
    own = sum(p.numel() for p in method.critic.parameters())
    assert (
        sum(p.numel() for p in method.path.parameters())
        == 3 * own
        < sum(p.numel() for p in method.student.parameters())
    )
    fit(made(critic=LoRA(rank=2)), 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degradation": 7}, "no whole number of times 3"),
        ({"schedule": UpdateSchedule(student_start=3)}, "leave schedule.student_start at 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        made(**options)
