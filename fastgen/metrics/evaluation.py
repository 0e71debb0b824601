"""Measuring a method's samples without a trainer, as the callback ``Evaluate`` does in a run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite
from fastgen.metrics.measuring import (
    TEACHER_SEEDS,
    Conditions,
    Evaluated,
    LabelsInTurn,
    compare_with_teacher,
    give_reference,
    make_ready,
    row_of,
    sample_batches,
    take_in_real,
)
from fastgen.pictures.pixels import are_finite
from fastgen.results.rows import REAL, Row


def evaluate(
    method: Evaluated,
    suite: MetricSuite,
    count: int = 1000,
    *,
    data: Conditions | None = None,
    role: str = "average",
    steps: Sequence[int | None] = (None,),
    teacher: bool = False,
    real: bool = False,
    seed: int = 10_000,
    batch_size: int = 500,
) -> list[Row]:
    """Measure samples of a method that stands in this process, as the callback ``Evaluate`` does in a run.

    Sample i is a function of its seed, of condition i and of the weights.

    Args:
        method: A ``Distiller`` with its networks built: trained, or from ``fastgen.load``.
        suite: The metrics.
        count: Number of samples. Compare only numbers with equal counts.
        data: Gives conditions and real samples, e.g. ``Digits()``; without it labels come in turn, and what needs a
            reference compares with the teacher's samples (``fastgen.load(..., teacher=True)``).
        role: ``average`` (the EMA), ``student`` or an EMA's name.
        steps: Network calls of the student, a row for each; ``None`` is as trained.
        teacher: Measure the teacher first, and give every row its ratios to it.
        real: Measure real samples of the same conditions before all, if the data module has them.
        seed: Sample i is made from seed ``seed + i``.
        batch_size: Samples per network call.

    Returns:
        Rows as in ``metrics.jsonl``: ``row["values"]["frechet"]``, and ``row["kinds"]`` with what each measures.

    Raises:
        UserError: If something is missing, or a fidelity number would stand without a coverage number.
    """
    checks.whole("evaluate", 2, count=count)
    checks.whole("evaluate", batch_size=batch_size)
    checks.not_empty("evaluate", steps=steps)
    known: Conditions = LabelsInTurn(method.student) if data is None else data
    told = known.evaluation_conditions, known.evaluation_groups
    if teacher and method.teacher is None:
        raise UserError("This method has no teacher in memory; load it with teacher=True, or leave teacher out.")
    make_ready(suite, lambda: known.evaluation_conditions([0]))

    def take_in(role: str, steps: int | None, first_seed: int) -> int:
        suite.reset()
        seeds, broken, done = [first_seed + i for i in range(count)], 0, 0
        for samples, condition in sample_batches(method, *told, range(count), seeds, batch_size, role, steps):
            finite = are_finite(samples)
            if finite.all():
                suite.observe(samples, condition, seeds[done : done + len(samples)])
            broken += len(samples) - int(finite.sum())
            done += len(samples)
        return broken

    def measured(role: str, steps: int | None) -> Row:
        began = time.perf_counter()
        broken = take_in(role, steps, seed)
        row = row_of(method, suite, role, steps, count, seed, broken)
        return row | {"evaluation_seconds": round(time.perf_counter() - began, 3)}

    with isolate_rng(), torch.no_grad():
        suite.to(method.device)
        from_teacher = seed + TEACHER_SEEDS
        give_reference(suite, known.reference, method.teacher, count, lambda: take_in("teacher", None, from_teacher))
        if method.teacher is not None and (wanted := min(suite.wants_teacher, count)):
            seeds = [seed + i for i in range(wanted)]
            batches = sample_batches(method, *told, range(wanted), seeds, batch_size, "teacher", None)
            for number, (samples, _) in enumerate(batches):
                suite.remember_teacher(samples, seeds[number * batch_size :][: len(samples)])
        rows = []
        seeds = [seed + i for i in range(count)]
        if real and take_in_real(suite, known.evaluation_samples, *told, range(count), seeds, batch_size):
            rows.append(row_of(method, suite, REAL, None, count, seed, 0))
        first = [measured("teacher", None)] if teacher else []
        rows += [measured(role, number) for number in steps]
        if first:
            compare_with_teacher(rows, first[0])
    return [*first, *rows]
