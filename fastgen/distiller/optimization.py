"""Optimization: an optimizer and a schedule for every role."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.pytorch.cli import LRSchedulerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgen.configuration.building import building
from fastgen.distiller.optimizers import make_optimizer, try_out
from fastgen.distiller.resume import Configured
from fastgen.distiller.rollouts import Rollouts
from fastgen.errors import UserError
from fastgen.schedules import RunLength
from fastgen.sharding import whole

if TYPE_CHECKING:
    pass


class Optimization(Rollouts):
    """Builds and finds the optimizer and the learning-rate schedule of a role.

    Attributes:
        lr_scheduler_factories: What builds the schedule of a role.
        gradient_clip: Largest gradient norm, one for all roles or one per role.
    """

    lr_scheduler_factories: dict[str, LRSchedulerCallable | None]
    gradient_clip: float | dict[str, float] | None

    def try_out_optimizers(self) -> None:
        """Refuse optimizers and schedules with arguments that make no sense before anything is built."""
        extras = {role: make for extra in self.each_extra() for role, make in extra.optimizers().items()}
        for role, make in (self.optimizer_factories | extras).items():
            try_out(role, make, self.lr_scheduler_factories.get(role))

    def configure_optimizers(self) -> Any:
        """One optimizer per role and its schedule, if any, by name, in the order of ``roles()``."""
        if isinstance(self.gradient_clip, dict) and (unknown := set(self.gradient_clip) - set(self.roles())):
            raise UserError(f"gradient_clip names '{min(unknown)}', but the roles are: {', '.join(self.roles())}.")
        configured = []
        for role in self.roles():
            optimizer = make_optimizer(role, self.optimizer_factories[role], self.trained_parameters[role])
            entry: dict[str, Any] = {"optimizer": optimizer}
            self.configured[role] = Configured(optimizer)
            if (schedule := self.lr_scheduler_factories.get(role)) is not None:
                with building(f"{role}_lr_scheduler"):
                    entry["lr_scheduler"] = self.configured[role].with_schedule(partial(self.scheduled, schedule))
            configured.append(entry)
        return configured

    def scheduled(self, schedule: LRSchedulerCallable, optimizer: Optimizer) -> Any:
        """Build a schedule, which follows the run if its length is the run's."""
        built = schedule(optimizer)
        if isinstance(built, RunLength) and self._trainer is not None:
            built.follow(lambda: self.student_updates, self.trainer.max_steps)
        return built

    def wrapped_optimizer(self, role: str) -> Any:
        optimizers = self.optimizers()
        return optimizers[self.roles().index(role)] if isinstance(optimizers, list) else optimizers

    def optimizer_of(self, role: str) -> Optimizer:
        """The role's torch optimizer."""
        return self.wrapped_optimizer(role).optimizer

    def lr_scheduler_of(self, role: str) -> Any:
        """The role's learning-rate schedule, or ``None``."""
        config = self.lr_scheduler_config_of(role)
        return None if config is None else config.scheduler

    def no_gradient_sync(self) -> Any:
        """Do not average gradients over ranks yet (more micro-batches follow)."""
        control = getattr(self.trainer.strategy, "_backward_sync_control", None)
        model = self.trainer.strategy.model
        return nullcontext() if control is None else control.no_backward_sync(model, True)

    def clip(self, role: str) -> Tensor:
        """Clip the role's gradient norm if asked to; returns the norm before clipping."""
        limit = self.gradient_clip.get(role) if isinstance(self.gradient_clip, dict) else self.gradient_clip
        parameters = self.trained_parameters[role]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return whole(norm)
