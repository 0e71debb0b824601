"""Optimizers and learning-rate schedules from a config, tried out before anything else is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgen import checks
from fastgen.configuration.building import building
from fastgen.schedules import RunLength

RATES = ("lr", "eps", "weight_decay", "momentum", "betas")
"""Arguments of optimizers that are not negative, also where their optimizer does not check them."""

FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Optimizers with a fused kernel on CPUs and CUDA."""

LENGTHS = ("T_0", "T_max", "step_size", "total_iters")
"""Arguments of torch's schedules that count steps."""


def make_optimizer(role: str, make: OptimizerCallable, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer of a role; torch's fused kernel updates it unless its arguments say ``fused`` or ``foreach``.

    Raises:
        UserError: If torch refuses its arguments.
    """
    with building(f"{role}_optimizer"):
        return fused(make(parameters))


def fused(optimizer: Optimizer) -> Optimizer:
    """Let one kernel update each weight, where torch has one and nobody has chosen another way.

    By itself torch fuses nothing, since the kernel is younger than the loop; the update is the same to rounding. It
    saves several passes over weights and moments, which is a few per cent of an iteration on a CPU.
    """
    for group in optimizer.param_groups if type(optimizer) in FUSED else ():
        chosen = group["fused"] is not None or group["foreach"] is not None or group["differentiable"]
        if not chosen and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in group["params"]):
            group["fused"] = True
    return optimizer


def make_schedule(role: str, make: LRSchedulerCallable, optimizer: Optimizer) -> Any:
    """The learning-rate schedule of a role.

    Raises:
        UserError: If torch refuses its arguments.
    """
    with building(f"{role}_lr_scheduler"):
        return make(optimizer)


def try_out(role: str, optimizer: OptimizerCallable, schedule: LRSchedulerCallable | None) -> None:
    """Build both for a matrix of two by two and let the schedule take two steps.

    Raises:
        UserError: If a number is out of range: not finite, negative, no length.
    """
    matrix = nn.Parameter(torch.zeros(2, 2))
    built = make_optimizer(role, optimizer, [matrix])
    numbers = {name: value for name, value in built.defaults.items() if is_number(value)}
    checks.finite(f"{role}_optimizer", **numbers)
    checks.not_negative(f"{role}_optimizer", **{name: value for name, value in numbers.items() if name in RATES})
    if schedule is None:
        return
    following = make_schedule(role, schedule, built)
    for part in (following, *getattr(following, "_schedulers", ())):
        check_schedule(f"{role}_lr_scheduler", part)
    if isinstance(following, RunLength):
        return  # it moves when it follows a run
    with building(f"{role}_lr_scheduler"):
        for _ in range(2):
            matrix.grad = torch.zeros_like(matrix)
            built.step()
            following.step()
    checks.not_negative(f"{role}_lr_scheduler", lr=[group["lr"] for group in built.param_groups])


def check_schedule(name: str, schedule: Any) -> None:
    """Lengths are from 1, the other numbers are not negative."""
    own = {key: value for key, value in vars(schedule).items() if is_number(value) and not key.startswith("_")}
    own.pop("last_epoch", None)
    checks.whole(name, **{key: own.pop(key) for key in LENGTHS if key in own})
    checks.not_negative(name, **own)


def is_number(value: Any) -> bool:
    """Numbers, and lists of them such as ``betas``."""
    if isinstance(value, list | tuple):
        return all(is_number(item) for item in value)
    return isinstance(value, int | float | Tensor) and not isinstance(value, bool)
