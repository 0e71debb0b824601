"""Optimizers and schedules with arguments that make no sense are refused before anything is built."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR

from fastgen.denoisers import RingMixture
from fastgen.distiller.optimizers import make_optimizer, try_out
from fastgen.errors import UserError
from fastgen.methods import SiD
from fastgen.processes import EDM

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "learning rate"),
        ({"lr": NAN}, "learning rate"),
        ({"lr": INF}, "lr must be"),
        ({"betas": (0.9, 1.5)}, "beta"),
        ({"betas": (NAN, 0.9)}, "beta"),
        ({"eps": INF}, "eps must be"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": INF}, "weight_decay must be"),
        ({"betas": (0.9,)}, "beta|unpack|index"),
        ({"lr": "much"}, "lr|not supported"),
    ],
)
def test_arguments_of_optimizers(options: dict[str, Any], says: str):
    with pytest.raises(UserError, match="critic_optimizer") as refusal:
        try_out("critic", partial(torch.optim.Adam, **options), None)
    assert re.search(says, str(refusal.value)), refusal.value


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (CosineAnnealingLR, {"T_max": -1}),
        (CosineAnnealingLR, {"T_max": 0}),
        (CosineAnnealingLR, {"T_max": 10, "eta_min": -1.0}),
        (CosineAnnealingLR, {"T_max": 10, "eta_min": NAN}),
        (CosineAnnealingLR, {"T_max": 10, "last_epoch": 0}),
        (LinearLR, {"total_iters": 0}),
        (LinearLR, {"start_factor": -1.0}),
        (LinearLR, {"start_factor": 0.0}),
        (StepLR, {"step_size": 0}),
        (StepLR, {"step_size": 2, "gamma": -0.5}),
    ],
)
def test_arguments_of_schedules(schedule: Any, options: dict[str, Any]):
    with pytest.raises(UserError, match="student_lr_scheduler"):
        try_out("student", torch.optim.SGD, partial(schedule, **options))


def test_good_ones_pass():
    def chained(optimizer: torch.optim.Optimizer) -> SequentialLR:
        parts = [LinearLR(optimizer, total_iters=4), CosineAnnealingLR(optimizer, T_max=10)]
        return SequentialLR(optimizer, parts, milestones=[4])

    for optimizer in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RAdam, torch.optim.Muon):
        for schedule in (None, partial(LinearLR, total_iters=3), chained):
            try_out("student", optimizer, schedule)
    try_out("student", partial(torch.optim.Adam, lr=0.0), None)  # Health says that nothing moves


def test_every_role_is_tried_out():
    law = lambda: RingMixture(EDM())  # noqa: E731
    bad = partial(torch.optim.Adam, lr=-1.0)
    SiD(teacher=law).try_out_optimizers()
    with pytest.raises(UserError, match="critic_optimizer"):
        SiD(teacher=law, critic_optimizer=bad).try_out_optimizers()
    with pytest.raises(UserError, match="student_optimizer"):
        SiD(teacher=law, student_optimizer=bad).try_out_optimizers()


def test_a_bug_stays_a_bug():
    def broken(parameters: Any) -> Any:
        raise AttributeError("no such attribute")

    with pytest.raises(AttributeError):
        make_optimizer("student", broken, [nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_updates_are_fused_unless_said_otherwise(kind: type[torch.optim.Optimizer]):
    """The kernel and the loop agree; ``fused`` or ``foreach`` of the configuration stay."""
    for name in ("fused", "foreach"):
        made = make_optimizer("student", partial(kind, **{name: False}), [nn.Parameter(torch.zeros(2))])
        (group,) = made.param_groups
        assert group[name] is False and not (name == "foreach" and group["fused"])
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for arguments in ({}, {"fused": False}):
        weights = nn.Parameter(start.clone())
        optimizer = make_optimizer("student", partial(kind, lr=0.1, weight_decay=0.1, **arguments), [weights])
        assert bool(optimizer.param_groups[0]["fused"]) == (not arguments)
        for _ in range(3):
            weights.grad = weights.detach().sin() + 1
            optimizer.step()
        ends.append(weights.detach())
    torch.testing.assert_close(*ends, rtol=1e-14, atol=1e-14)
    assert not torch.equal(ends[0], start)
