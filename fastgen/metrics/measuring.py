"""The parts of an evaluation: conditions, samples in batches, the reference, a row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite
from fastgen.results.kinds import BOOKKEEPING, Kind, written
from fastgen.results.rows import REAL, Row, kinds_of, ratios

NOT_FINITE = "not_finite"
"""The number of samples that are no samples, in the rows in which there are any."""
TEACHER_SEEDS = 1_000_000_000
"""How far the seeds of the teacher's samples that serve as reference lie from those of the samples compared."""


class Evaluated(Protocol):
    """What is asked of a method: every ``Distiller`` is one."""

    teacher: Any
    student: Any

    @property
    def device(self) -> torch.device:
        """Where it samples."""

    @property
    def student_updates(self) -> int:
        """How far it is trained."""

    def sample(
        self, seeds: Sequence[int], condition: Mapping[str, Any], steps: int | None = None, role: str = "average"
    ) -> Tensor:
        """Decoded samples."""

    def evaluations(self, role: str, steps: int | None = None) -> int:
        """Network calls per sample."""


class Conditions(Protocol):
    """What is asked of a data module."""

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Conditions of evaluation samples."""

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """What metrics alone are told."""

    def evaluation_samples(self, indices: Sequence[int]) -> Tensor | None:
        """Real samples of the same conditions, drawn anew."""

    def reference(self) -> dict[str, Tensor] | None:
        """Real samples."""


class LabelsInTurn:
    """Conditions without a data module: the network's labels in turn, or none; no real samples.

    Args:
        network: Whose labels.

    Raises:
        UserError: If it takes prompts, which only a data module has.
    """

    def __init__(self, network: Any) -> None:
        if network.takes_prompts:
            raise UserError("This method makes pictures from text; give data, e.g. Prompts('prompts.txt').")
        self.num_classes = network.num_classes

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Labels, if there are classes."""
        return {"label": torch.tensor([i % self.num_classes for i in indices])} if self.num_classes else {}

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """None."""
        return {}

    def evaluation_samples(self, indices: Sequence[int]) -> Tensor | None:
        """None."""
        return None

    def reference(self) -> dict[str, Tensor] | None:
        """None."""
        return None


Told = Callable[[Sequence[int]], dict[str, Any]]
"""What evaluation samples by number are to show, or what metrics alone are told of them."""


def sample_batches(
    method: Evaluated,
    conditions: Told,
    groups: Told,
    indices: Sequence[int],
    seeds: Sequence[int],
    batch_size: int,
    role: str,
    steps: int | None,
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Samples with their conditions and groups; sample ``indices[k]`` is made from ``seeds[k]``."""
    for start in range(0, len(indices), batch_size):
        rows = slice(start, start + batch_size)
        condition = conditions(indices[rows])
        yield method.sample(seeds[rows], condition, steps, role), condition | groups(indices[rows])


def take_in_real(
    suite: MetricSuite,
    real: Callable[[Sequence[int]], Tensor | None],
    conditions: Told,
    groups: Told,
    indices: Sequence[int],
    seeds: Sequence[int],
    batch_size: int,
) -> bool:
    """Have a suite see real samples in the place of made ones; whether there are any.

    Args:
        suite: The metrics, on the device.
        real: Those of evaluation samples by number, ``None`` if the data module has none.
        conditions: Of evaluation samples by number.
        groups: What metrics alone are told of them.
        indices: This rank's share.
        seeds: Of the samples in whose place they stand.
        batch_size: Samples at a time.
    """
    suite.reset()
    for start in range(0, len(indices), batch_size):
        rows = indices[start : start + batch_size]
        samples = real(rows)
        if samples is None:
            return False
        suite.observe(samples.to(suite.device), conditions(rows) | groups(rows), seeds[start : start + batch_size])
    return True


def make_ready(suite: MetricSuite, first_condition: Callable[[], Mapping[str, Any]]) -> None:
    """Read weights and reference files, and refuse what would fail or mislead later.

    Args:
        suite: The metrics.
        first_condition: That of the first sample.

    Raises:
        UserError: If a file is missing, there is fidelity without coverage, or prompts are needed and missing.
    """
    suite.load()
    suite.refuse_lone_fidelity()
    needy = [name for name, metric in suite.metrics().items() if metric.needs_prompts]
    if needy and "prompt" not in first_condition():
        raise UserError(
            f"{', '.join(needy)} need prompts and the data module has none; evaluate with a data module that has "
            "prompts, or remove them."
        )


def give_reference(
    suite: MetricSuite,
    real_samples: Callable[[], dict[str, Tensor] | None],
    teacher: object | None,
    count: int,
    take_in_teacher: Callable[[], int],
) -> None:
    """Give a suite the real samples, or else the teacher's.

    Args:
        suite: The metrics, on the device.
        real_samples: Those of the data module, if it has any.
        teacher: ``None`` if there is none.
        count: Number of the teacher's samples.
        take_in_teacher: Has the suite see the teacher's samples; how many of them are not finite.

    Raises:
        UserError: If there is nothing to compare with.
    """
    found = real_samples() if suite.needs_reference else None
    if found is None and suite.needs_reference and teacher is not None:
        if broken := take_in_teacher():
            raise UserError(
                f"{broken} of {count} samples of the teacher are not finite, so nothing can be compared with them; "
                "check its weights, the solver and the trainer's precision."
            )
        suite.refer_to_teacher()
    else:
        suite.set_reference(found)


def row_of(
    method: Evaluated, suite: MetricSuite, role: str, steps: int | None, count: int, seed: int, broken: int
) -> Row:
    """The row of what a suite has taken in, which it forgets. Every rank must call it.

    Args:
        method: Whose samples.
        suite: The metrics.
        role: Whose network made them.
        steps: Its network calls as asked for.
        count: Number of samples.
        seed: That of the first.
        broken: How many were not finite; then nothing else is said of them.
    """
    if broken:
        values = {NOT_FINITE: float(broken), "count": float(count)}
    else:
        values = {name: float(value) for name, value in suite.compute().items()}
    suite.reset()
    kinds = {NOT_FINITE: Kind("other", "lower"), "count": BOOKKEEPING, **suite.kinds()}
    return {
        "student_updates": 0 if role == REAL else method.student_updates,
        "training_seconds": None,
        "evaluation_seconds": None,
        "role": role,
        "steps": steps,
        "nfe": 0 if role == REAL else method.evaluations(role, steps),
        "count": count,
        "seed": seed,
        "fingerprint": suite.fingerprint(),
        "reference": suite.reference_name,
        "values": values,
        "kinds": written({name: kinds.get(name, Kind()) for name in values}),
        "ratio_to_teacher": {},
    }


def compare_with_teacher(rows: Sequence[Row], teacher: Row) -> None:
    """Write into rows their numbers divided by the teacher's."""
    for row in rows:
        row["ratio_to_teacher"] = ratios(row["values"], teacher["values"], kinds_of(row))
