"""What can be known when a run begins is said then, not after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

from fastgen.callbacks.evaluation import Evaluate
from fastgen.callbacks.sampling import conditions
from fastgen.callbacks.trainer_access import callbacks_of, data_of, distiller
from fastgen.distiller.run_facts import RunFacts
from fastgen.errors import UserError
from fastgen.export.sampling import why_not_exported
from fastgen.notices import notice

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


def validates(trainer: Trainer) -> bool:
    """Whether validation happens in a run, whose epochs end only after ``limit_train_batches``."""
    by_batches = trainer.val_check_interval not in (None, 1.0)
    return trainer.limit_val_batches != 0 and (by_batches or trainer.limit_train_batches != 1.0)


def facts(trainer: Trainer) -> RunFacts:
    """What is known of a trainer's run before it."""
    condition = None
    if data_of(trainer) is not None:
        try:
            condition = conditions(trainer, [0])
        except UserError:  # said where conditions are needed
            condition = None
    evaluates = any(isinstance(callback, Evaluate) for callback in callbacks_of(trainer))
    measured = [name for name, is_so in (("eval", evaluates), ("val", validates(trainer))) if is_so]
    return RunFacts(trainer.max_steps, condition, frozenset(measured))


class Beginning(Callback):
    """Says in a line each which options have no effect in this run, and why its student could not be exported.

    Methods, extras and callbacks know which of their options these are: ``without_effect(run)``.
    """

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        for sentence in self.sentences(trainer, method):
            notice(sentence)

    def sentences(self, trainer: Trainer, method: Distiller) -> Iterator[str]:
        """All that is to be said.

        Raises:
            UserError: For what would fail later, e.g. guidance by conditions that there are not.
        """
        run = facts(trainer)
        for part in (method, *method.each_extra(), *callbacks_of(trainer)):
            if (without_effect := getattr(part, "without_effect", None)) is not None:
                yield from without_effect(run)
        if (why := why_not_exported(method)) is not None:
            yield f"'fastgen export' will refuse this student: {why}"
