"""Distances of samples to the data, of the student and of its teacher: when they are measured and where they go."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from fastgen import checks
from fastgen.callbacks.clock import SideWork, TimesTraining
from fastgen.callbacks.evaluation.measurement import Measurement, Stopped
from fastgen.callbacks.evaluation.unfinished import digest, settings_of
from fastgen.callbacks.sampling import conditions, real_samples
from fastgen.callbacks.trainer_access import distiller, log_folder, log_scalars
from fastgen.callbacks.updates import AfterStudentUpdates, is_due
from fastgen.checkpoints.restoring import restoring
from fastgen.metrics.base import MetricSuite
from fastgen.metrics.measuring import compare_with_teacher, make_ready
from fastgen.results.rows import Row, identity, read_rows, table
from fastgen.storage.files import write_text

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


class Evaluate(AfterStudentUpdates, TimesTraining, SideWork, Measurement):
    """Measures samples with a suite of metrics: every n student updates, and at the end of fit, validate and test.

    Numbers go to the logger and to ``trainer.callback_metrics`` as ``eval/<metric>`` (with ``_<k>steps`` if several
    step counts are measured, and ``eval/<role>/<metric>`` if several roles are), to ``<log_dir>/metrics.jsonl`` and to
    the table ``<log_dir>/metrics.md``. Training does not notice: its random numbers, modes and clock are left alone.
    Weights and reference files are read before anything is trained or sampled, and a suite that measures fidelity
    without coverage is refused.

    Samples with a value that is not finite are counted as ``not_finite``, and their row has no other number: what the
    rest is worth says nothing about such a sampler.

    Sample i is a function of its seed, of the data module's condition i and of the weights, whatever the batch size and
    the number of ranks. If the data module has no real samples, the teacher's samples of the same conditions with other
    seeds are the reference, and the numbers are called ``<metric>_to_teacher``.

    In ``validate`` and ``test`` a long evaluation writes what it has measured to ``<log_dir>/evaluation`` and goes on
    from there when the same command is given again, also on another number of ranks.

    Args:
        suite: The metrics.
        count: Number of samples, over all ranks. Compare only numbers with equal counts.
        batch_size: Samples per network call and rank.
        every_n_steps: Student updates between evaluations; 0 for only the end.
        steps: Network calls of the student; ``trained`` for the number that it is trained for.
        seed: Sample i is made from seed ``seed + i``.
        roles: Whose samples: ``average``, ``student`` or names of EMAs.
        teacher: Measure the teacher's own samples too, once in a run.
        teacher_once: Measure the teacher called once too: the student before training.
        real: Measure real samples of the same conditions too, once in a run, if the data module has them: what a
            perfect sampler would get, by the same metrics from equally many samples.
        save_every_minutes: Time between writes of what was measured so far; ``null`` for none.
        name: Begins the names of logged numbers; a second ``Evaluate`` needs another.
    """

    def __init__(
        self,
        suite: MetricSuite,
        count: int = 5000,
        batch_size: int = 500,
        every_n_steps: int = 0,
        steps: list[int] | Literal["trained"] = "trained",
        seed: int = 10_000,
        roles: Sequence[str] = ("average",),
        teacher: bool = True,
        teacher_once: bool = True,
        real: bool = True,
        save_every_minutes: float | None = 5.0,
        name: str = "eval",
    ) -> None:
        checks.whole(self, 2, count=count)
        checks.whole(self, batch_size=batch_size)
        checks.whole(self, 0, every_n_steps=every_n_steps)
        own = None if steps == "trained" else steps
        checks.whole(self, 1, checks.MOST_STEPS, steps=own)
        checks.seed(self, seed=seed)
        checks.not_negative(self, save_every_minutes=save_every_minutes)
        checks.not_empty(self, steps=own, roles=roles, name=name)
        checks.distinct(self, steps=own, roles=roles)
        super().__init__()
        self.suite = suite
        self.count = count
        self.batch_size = batch_size
        self.every_n_steps = every_n_steps
        self.steps: list[int | None] = [None] if isinstance(steps, str) else list(steps)
        self.seed = seed
        self.roles = list(roles)
        self.teacher = teacher
        self.teacher_once = teacher_once
        self.real = real
        self.save_every_minutes = save_every_minutes
        self.name = name
        self._real_rows: list[Row] = []
        self._real_key = ""
        self._teacher_rows: list[Row] = []
        self._teacher_key = ""
        self._latest_rows: list[Row] = []
        self._latest_step: int | None = None
        self.has_reference = False
        self.unfinished_parts = []

    @property
    def state_key(self) -> str:
        return f"Evaluate[{self.name}]"

    # ------------------------------------------------------------------ when

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.PREDICTING:
            make_ready(self.suite, lambda: conditions(trainer, [0]))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        super().on_train_start(trainer, method)
        self.training_time.start(trainer)

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        if is_due(trainer.global_step, self.every_n_steps):
            self.during_fit(trainer, method)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        if self._latest_step != trainer.global_step:
            self.during_fit(trainer, method)
        self.training_time.stop()
        if trainer.is_global_zero and self._latest_step == trainer.global_step:
            self.report()

    def during_fit(self, trainer: Trainer, method: Distiller) -> None:
        """Evaluate and log at x = student updates."""
        rows = self.evaluate(trainer, method)
        if rows is not None:
            self._latest_step = trainer.global_step
            log_scalars(trainer, self.scalars(rows), trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.standalone(trainer, method)

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        self.standalone(trainer, method)

    def standalone(self, trainer: Trainer, method: Distiller) -> None:
        """Evaluate in ``validate`` or ``test``; the numbers are part of what the trainer returns."""
        rows = self.evaluate(trainer, method)
        if rows is not None:
            method.log_dict(self.scalars(rows))
            if trainer.is_global_zero:
                self.report()
        else:
            if trainer.is_global_zero:
                print("fastgen: stopped; give the same command again to go on with the evaluation", file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM)

    # ------------------------------------------------------------------ what

    def evaluate(self, trainer: Trainer, method: Distiller) -> list[Row] | None:
        """Measure the current weights and write the rows, before them the data's and the teacher's if they are new.

        Returns:
            The student's rows, or ``None`` if the run was told to stop.
        """
        seconds = self.training_time.seconds
        try:
            with self.side_work():
                self.prepare(trainer, method)
                new_rows = [*self.measure_real(trainer, method), *self.measure_teacher(trainer, method, seconds)]
                student_rows = [
                    self.row(trainer, method, role, steps, seconds) for role in self.roles for steps in self.steps
                ]
                if self.teacher and self._teacher_rows:
                    others = [*self._real_rows, *self._teacher_rows[1:], *student_rows]
                    compare_with_teacher(others, self._teacher_rows[0])
                self._latest_rows = student_rows
                self.write(trainer, [*new_rows, *student_rows])
                for unfinished in self.unfinished_parts:
                    unfinished.remove()
        except Stopped:
            return None
        finally:
            self.unfinished_parts = []
        return student_rows

    def measure_real(self, trainer: Trainer, method: Distiller) -> list[Row]:
        """The row of real samples, if the data module has them and they are not measured yet."""
        if not self.real or real_samples(trainer, [0]) is None:
            return []
        key = digest([*self.settings(trainer, method), f"{self.seed}", self.suite.reference_name])
        if self._real_key == key:
            return []
        self._real_rows = [self.real_row(trainer, method)]
        self._real_key = key
        return self._real_rows

    def measure_teacher(self, trainer: Trainer, method: Distiller, seconds: float) -> list[Row]:
        """The teacher's rows, if they are wanted and not known yet."""
        wanted: list[int | None] = [None] * self.teacher + [1] * self.teacher_once
        key = digest(
            [
                *self.settings(trainer, method),
                settings_of(method.solver),
                f"{self.seed} {wanted}",
                self.suite.reference_name,
            ]
        )
        if method.teacher is None or self._teacher_key == key:
            return []
        self._teacher_rows = [self.row(trainer, method, "teacher", steps, seconds) for steps in wanted]
        self._teacher_key = key
        return self._teacher_rows

    def scalars(self, rows: list[Row]) -> dict[str, float]:
        """The student's numbers under the names by which they are logged."""
        named: dict[str, float] = {}
        for row in rows:
            place = f"{self.name}/{row['role']}" if len(self.roles) > 1 else self.name
            suffix = f"_{row['steps']}steps" if len(self.steps) > 1 else ""
            named |= {f"{place}/{name}{suffix}": value for name, value in row["values"].items()}
        return named

    # ------------------------------------------------------------------ where to

    def write(self, trainer: Trainer, rows: list[Row]) -> None:
        """Append the rows to ``metrics.jsonl`` and rewrite the table of all rows, on rank 0."""
        folder = log_folder(trainer)
        if not trainer.is_global_zero:
            return
        path = folder / "metrics.jsonl"
        new = {identity(row) for row in rows}  # a resumed run may measure once more what it had measured at its end
        kept = [row for row in read_rows(path) if identity(row) not in new]
        write_text(path, "".join(json.dumps(row) + "\n" for row in [*kept, *rows]))
        write_text(folder / "metrics.md", table(read_rows(path)))

    def report(self) -> None:
        """Print the rows of the data, of the teacher and the student's latest."""
        from tqdm import tqdm

        tqdm.write(table([*self._real_rows, *self._teacher_rows, *self._latest_rows], upright=True), file=sys.stdout)

    def state_dict(self) -> dict[str, Any]:
        return {
            "training_seconds": self.training_time.seconds,
            "real_key": self._real_key,
            "real_rows": json.dumps(self._real_rows),
            "teacher_key": self._teacher_key,
            "teacher_rows": json.dumps(self._teacher_rows),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with restoring("Evaluate"):
            self.training_time.before = float(state_dict["training_seconds"])
            self._real_key = state_dict.get("real_key", "")  # files before there were such rows
            self._real_rows = json.loads(state_dict.get("real_rows", "[]"))
            self._teacher_key = state_dict["teacher_key"]
            self._teacher_rows = json.loads(state_dict["teacher_rows"])
