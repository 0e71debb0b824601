"""Have a suite of metrics see samples of a role, on every rank, and go on where a stopped evaluation was."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from fastgen.callbacks.evaluation.unfinished import Unfinished, digest, settings_of, weights_digest
from fastgen.callbacks.interruption import stop_requested
from fastgen.callbacks.progress import bar
from fastgen.callbacks.sampling import conditions, describe, groups, real_samples, reference, sample_batches
from fastgen.metrics.base import MetricSuite
from fastgen.metrics.measuring import TEACHER_SEEDS, give_reference, row_of, take_in_real
from fastgen.pictures.pixels import are_finite
from fastgen.results.rows import REAL, Row

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


class Stopped(Exception):
    """The run was told to stop."""


class Measurement:
    """What measures ``count`` samples of any role with a suite; a callback says when.

    Attributes:
        suite: The metrics.
        count: Number of samples, over all ranks.
        batch_size: Samples per network call and rank.
        seed: Sample i is made from seed ``seed + i``.
        save_every_minutes: Time between writes of what was measured so far; ``None`` for none.
        has_reference: Whether the suite knows what samples are compared with.
        unfinished_parts: What was written of the evaluation that is under way.
    """

    suite: MetricSuite
    count: int
    batch_size: int
    seed: int
    save_every_minutes: float | None
    has_reference: bool
    unfinished_parts: list[Unfinished]

    def prepare(self, trainer: Trainer, method: Distiller) -> None:
        """Bring the suite to the device and give it the reference, once."""
        self.suite.to(method.device)
        if self.has_reference:
            return
        seed = self.seed + TEACHER_SEEDS
        give_reference(
            self.suite,
            lambda: reference(trainer),
            method.teacher,
            self.count,
            lambda: self.take_in(trainer, method, "teacher", None, seed, "reference: "),
        )
        if method.teacher is not None and (wanted := min(self.suite.wants_teacher, self.count)):
            seeds = [self.seed + index for index in range(wanted)]
            batches = sample_batches(trainer, method, range(wanted), seeds, self.batch_size, "teacher", None)
            for number, (samples, _) in enumerate(batches):
                self.suite.remember_teacher(samples, seeds[number * self.batch_size :][: len(samples)])
        self.has_reference = True

    def real_row(self, trainer: Trainer, method: Distiller) -> Row:
        """Measure real samples of the same conditions."""
        own = range(trainer.global_rank, self.count, trainer.world_size)
        seeds = [self.seed + index for index in own]
        told = partial(conditions, trainer), partial(groups, trainer)
        began = time.perf_counter()
        take_in_real(self.suite, partial(real_samples, trainer), *told, own, seeds, self.batch_size)
        row = row_of(method, self.suite, REAL, None, self.count, self.seed, 0)
        return row | {"evaluation_seconds": round(time.perf_counter() - began, 3)}

    def row(self, trainer: Trainer, method: Distiller, role: str, steps: int | None, seconds: float) -> Row:
        """Sample and measure."""
        began = time.perf_counter()
        broken = self.take_in(trainer, method, role, steps, self.seed)
        row = row_of(method, self.suite, role, steps, self.count, self.seed, broken)
        lasted = round(time.perf_counter() - began, 3)
        return row | {"training_seconds": round(seconds, 3), "evaluation_seconds": lasted}

    def take_in(
        self, trainer: Trainer, method: Distiller, role: str, steps: int | None, first_seed: int, what: str = ""
    ) -> int:
        """Have the suite see ``count`` samples, those on disk included, and count those that are not finite.

        Those are not shown to the suite; over the rest its numbers would flatter.

        Raises:
            Stopped: If the run was told to stop meanwhile.
        """
        self.suite.reset()
        unfinished = self.unfinished(trainer, method, role, steps, first_seed)
        known = unfinished.resume() if unfinished is not None else set()
        missing = [index for index in range(self.count) if index not in known]
        # Every rank samples equally often, because networks may be sharded; what lies beyond the count is dropped.
        missing += range(self.count, self.count + -len(missing) % trainer.world_size)
        indices = missing[trainer.global_rank :: trainer.world_size]
        seeds = [first_seed + index for index in indices]
        description = f"evaluating {what}{describe(method, role, steps)}"
        batches = sample_batches(trainer, method, indices, seeds, self.batch_size, role, steps)
        done, broken = 0, 0
        with bar(trainer, desc=description, total=len(indices), unit="sample") as shown:
            for samples, condition in batches:
                if stop_requested(trainer):
                    if unfinished is not None:
                        unfinished.save()
                    self.suite.reset()
                    raise Stopped
                own = [index for index in indices[done : done + len(samples)] if index < self.count]
                finite = are_finite(samples[: len(own)])
                if own and finite.all():
                    kept = {name: value[: len(own)] for name, value in condition.items()}
                    self.suite.observe(samples[: len(own)], kept, seeds[done : done + len(own)])
                broken += len(own) - int(finite.sum())
                done += len(samples)
                if unfinished is not None and own and finite.all():
                    unfinished.took_in(own)
                shown.update(len(samples))
        broken = int(trainer.strategy.reduce(torch.tensor(broken, device=method.device), reduce_op="sum"))
        if unfinished is not None and not broken:
            unfinished.complete()
        return broken

    def unfinished(
        self, trainer: Trainer, method: Distiller, role: str, steps: int | None, first_seed: int
    ) -> Unfinished | None:
        """Where ``validate`` and ``test`` keep what they measured; training keeps nothing, it resumes by itself."""
        if self.save_every_minutes is None or trainer.state.fn not in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            return None
        key = [
            *self.settings(trainer, method),
            weights_digest(method.network(role)),
            f"{role == 'teacher'} {method.evaluations(role, steps)} {first_seed}",
            settings_of(method.solver if role == "teacher" else method.sampler),
        ]
        place = Unfinished(trainer, self.suite, digest(key), self.save_every_minutes)
        self.unfinished_parts.append(place)
        return place

    def settings(self, trainer: Trainer, method: Distiller) -> list[str]:
        """What every sample and number depends on beside weights, steps and seeds."""
        asked = conditions(trainer, range(self.count))
        values = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in asked.items()}
        return [
            f"{type(method).__name__} {json.dumps(method.recipe, sort_keys=True, default=str)}",
            json.dumps(values, default=str),
            f"{self.count} {trainer.precision}",
            self.suite.fingerprint(),
            " ".join(self.suite.metrics()),
        ]
