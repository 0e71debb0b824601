"""Stages: training in parts, each of which begins with what the last one left and with fresh optimizers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.distiller.base import Distiller


class Staged(Distiller):
    """A method that trains in stages; a checkpoint knows the stage that it was written in.

    Training beyond the last end goes on with the last stage. What a method overrides:

    - ``enter(stage)``: what is different in a stage; also called when a checkpoint of that stage is loaded;
    - ``begin_stage(stage)``: what is handed over from the stage before, such as a snapshot of the student.

    Attributes:
        ends: Student updates after which each stage ends.
        stage: The running stage, a buffer.
    """

    ends: list[int]
    stage: Tensor

    def have_stages(self, ends: Sequence[int]) -> None:
        """Begin at stage 0 of those that end after ``ends`` student updates; for the constructor."""
        self.ends = list(ends)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    def enter(self, stage: int) -> None:
        """Train and sample as ``stage`` does."""
        self.stage.fill_(stage)

    def begin_stage(self, stage: int) -> None:
        """Go on to ``stage``: its optimizers have no state and its schedules begin anew."""
        for role in self.roles():
            optimizer, schedule = self.optimizer_of(role), self.lr_scheduler_of(role)
            optimizer.state.clear()
            if schedule is not None:
                schedule.load_state_dict(copy.deepcopy(self.first_schedules[role]))
                for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
                    group["lr"] = rate
        self.enter(stage)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Begin the next stage if this one's updates are done, then update."""
        stage = int(self.stage)
        if stage + 1 < len(self.ends) and self.global_step >= self.ends[stage]:
            self.begin_stage(stage + 1)
        super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        self.first_schedules = {
            role: copy.deepcopy(entry["lr_scheduler"].state_dict())
            for role, entry in zip(self.roles(), configured, strict=True)
            if "lr_scheduler" in entry
        }
        return configured

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict, assign)
        self.enter(int(self.stage))
        return result


def snapshot_of(network: nn.Module) -> nn.Module:
    """A frozen copy, to be moved by :func:`overwrite`."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def overwrite(kept: nn.Module, current: nn.Module) -> None:
    """Give ``kept`` the weights and buffers of ``current``."""
    for part in (nn.Module.parameters, nn.Module.buffers):
        for old, new in zip(part(kept), part(current), strict=True):
            old.copy_(new)
