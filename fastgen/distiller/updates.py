"""Updates: an iteration, a turn, a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fastgen.distiller.memory import give_back_freed_memory, keep_freed_memory
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.optimization import Optimization
from fastgen.errors import UserError
from fastgen.precision import slope_of
from fastgen.randomness import derive_seed
from fastgen.schedules import RunLength


class Updates(Optimization):
    """Takes turns, adds up losses, and steps.

    Attributes:
        micro_batches: Pieces of a batch whose gradients are accumulated.
        max_bad_steps: Updates in a row without a finite gradient after which training stops.
        bad_steps: How many there were in a row, by role.
    """

    automatic_optimization = False
    micro_batches: int
    max_bad_steps: int
    bad_steps: dict[str, int]

    def on_fit_start(self) -> None:
        """On a CPU, keep what updates free for those that follow."""
        super().on_fit_start()
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_fit_end(self) -> None:
        """Give that memory back."""
        super().on_fit_end()
        if self.device.type == "cpu":
            give_back_freed_memory()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Update the roles whose turn it is."""
        torch.manual_seed(derive_seed(self.seed, "global", self.global_rank, self.iteration))  # dropout
        parts = self.parts("train", batch, self.iteration, self.micro_batches)
        for role in self.all_turns(self.iteration):
            self.update(role, parts)
        self.iteration += 1
        self.log("step", float(self.trainer.global_step))  # the loggers' x axis counts student updates

    def update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """One optimizer step of ``role``: zero, backward over the micro-batches, clip, step."""
        optimizer = self.optimizer_of(role)
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            part.begin_turn(role)
        with self.only(role):
            self.before_update(role, parts)
            for i, part in enumerate(parts):
                with nullcontext() if i == len(parts) - 1 else self.no_gradient_sync():
                    losses = self.losses(role, part)
                    if not losses:
                        raise UserError(
                            f"The {role} has no loss at student update {self.global_step}: {type(self).__name__} has "
                            "none for it, and no extra that has started; give an extra with start: 0."
                        )
                    total = torch.stack(list(losses.values())).sum() / len(parts)
                    self.manual_backward(total, gradient=slope_of(total))
                if role == "student" and role in part.rollouts:
                    self.record("health/sample_std", part.rollouts[role].x0.detach().std())
                part.end_turn(role)
                for name, value in losses.items():
                    self.record(f"{role}/{name}", value)
            norm = self.clip(role)
        self.record(f"{role}/grad_norm", norm)
        if self.is_bad(role, norm):
            optimizer.zero_grad(set_to_none=True)
            return
        schedule = self.lr_scheduler_of(role)
        if isinstance(schedule, RunLength):
            schedule.apply()  # the student may have been updated since this role was
        if role == "student":
            self.wrapped_optimizer(role).step()  # counted by trainer.global_step
        else:
            optimizer.step()
        self.updates[role] += 1
        if schedule is not None:
            schedule.step()
        self.after_update(role)
        for extra in self.active_extras():
            extra.after_update(self.itself, role)

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """What an update must know of its whole batch before the first piece, e.g. the mean of a weight."""

    def after_update(self, role: str) -> None:
        """What follows an update of ``role`` that was made, e.g. the motion of a network's own average."""

    def losses(self, role: str, part: MicroBatch) -> dict[str, Tensor]:
        """The named losses of a role: the method's own and those of the active extras."""
        own = getattr(self, f"{role}_loss", None)  # a role may live from extras alone
        losses: dict[str, Tensor] = {} if own is None else dict(own(part))
        for extra in self.active_extras():
            for name, value in extra.losses(self.itself, role, part).items():
                again = sum(known.partition("#")[0] == name for known in losses)
                losses[f"{name}#{again + 1}" if again else name] = value  # e.g. of a second reward
        return losses

    def is_bad(self, role: str, norm: Tensor) -> bool:
        """Whether this update must be skipped because its gradient is not finite.

        Raises:
            UserError: After ``max_bad_steps`` such updates in a row.
        """
        if math.isfinite(norm.item()):
            self.bad_steps[role] = 0
            return False
        self.bad_steps[role] = self.bad_steps.get(role, 0) + 1
        self.bad_steps_total += 1
        if self.bad_steps[role] >= self.max_bad_steps:
            raise UserError(
                f"The gradient of the {role} was not finite in {self.max_bad_steps} updates in a row (student update "
                f"{self.trainer.global_step}); lower its learning rate, set gradient_clip, or resume from an earlier "
                "checkpoint."
            )
        return True

    def record(self, name: str, value: Tensor) -> None:
        """Log a scalar of the running update; outside training nothing is logged."""
        if self._trainer is not None and self._trainer.training:
            self.log(name, value.detach(), batch_size=1)
