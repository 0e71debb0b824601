"""Exponential moving averages of the student's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from fastgen import checks
from fastgen.callbacks.trainer_access import distiller, place
from fastgen.callbacks.updates import AfterStudentUpdates
from fastgen.checkpoints.restoring import count_of, restoring
from fastgen.distiller.averaging import (
    ConstantEMA,
    EMARule,
    HalfLifeEMA,
    PowerEMA,
    half_life_beta,
    is_finite,
    move_average,
    power_beta,
    power_gamma,
)
from fastgen.distiller.micro_batch import size_of
from fastgen.distiller.run_facts import RunFacts
from fastgen.errors import UserError

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller

__all__ = [
    "EMA",
    "ConstantEMA",
    "EMARule",
    "HalfLifeEMA",
    "PowerEMA",
    "half_life_beta",
    "is_finite",
    "move_average",
    "power_beta",
    "power_gamma",
]


class EMA(AfterStudentUpdates):
    """Keeps an fp32 moving average of the student, by which the method samples (``role="average"``).

    The average is a network of the method (``method.averages[name]``) and travels in its checkpoints. Several EMAs may
    run at once under different names; the first is the one that is sampled by default.

    Weights that are not finite are no part of an average: the run ends.

    Args:
        name: Name of the average.
        rule: How fast it moves.
        start_step: Student updates before it starts; until then it is a copy of the student.
    """

    def __init__(self, name: str = "ema", rule: EMARule = ConstantEMA(), start_step: int = 0) -> None:
        checks.whole(self, 0, start_step=start_step)
        if not name.isidentifier():
            raise UserError(f"The name of an EMA is a word like 'ema' or 'ema_long', got '{name}'.")
        self.name = name
        self.rule = rule
        self.start_step = start_step
        self.samples_seen = 0

    @property
    def state_key(self) -> str:
        return f"EMA[{self.name}]"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        method = distiller(module)
        method.request_average(self.name)
        # Whoever looks at the average after a batch must see it updated.
        place(self, trainer, first=True)

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        """What of it does nothing in a run."""
        if run.ends_before(self.start_step):
            yield (
                f"the average '{self.name}' starts at student update {self.start_step}, but the run ends at "
                f"{run.max_steps}: it stays a copy of the student; lower EMA.start_step."
            )

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        update = trainer.global_step - self.start_step
        samples = size_of(batch) * trainer.world_size
        beta = self.rule.beta(update, self.samples_seen, samples) if update > 0 else 0.0
        if not trainer.strategy.reduce_boolean_decision(is_finite(method.student)):
            raise UserError(
                f"The student's weights are not finite after update {trainer.global_step}, although its gradient was; "
                f"the average '{self.name}' was not moved. Lower the learning rate or set gradient_clip, and resume "
                "from a checkpoint before it."
            )
        move_average(method.averages[self.name], method.student, beta)
        if update > 0:
            self.samples_seen += samples

    def state_dict(self) -> dict[str, Any]:
        return {"samples_seen": self.samples_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with restoring("EMA"):
            self.samples_seen = count_of(state_dict, "samples_seen")
