"""Samples for evaluation, in batches, with the data module's conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from torch import Tensor

from fastgen.callbacks.trainer_access import data_of
from fastgen.metrics import measuring

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


def conditions(trainer: Trainer, indices: Sequence[int]) -> dict[str, Any]:
    """The conditions of evaluation samples ``indices``; none if the trainer has no data module."""
    data = data_of(trainer)
    return {} if data is None else data.evaluation_conditions(indices)


def groups(trainer: Trainer, indices: Sequence[int]) -> dict[str, Any]:
    """What the data module tells metrics alone about evaluation samples ``indices``."""
    data = data_of(trainer)
    return {} if data is None else data.evaluation_groups(indices)


def reference(trainer: Trainer) -> dict[str, Tensor] | None:
    """The data module's real samples, if there are any."""
    data = data_of(trainer)
    return None if data is None else data.reference()


def real_samples(trainer: Trainer, indices: Sequence[int]) -> Tensor | None:
    """Real samples of the conditions of evaluation samples ``indices``, if the data module has them."""
    data = data_of(trainer)
    return None if data is None else data.evaluation_samples(indices)


def sample_batches(
    trainer: Trainer,
    method: Distiller,
    indices: Sequence[int],
    seeds: Sequence[int],
    batch_size: int,
    role: str,
    steps: int | None,
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Samples with their conditions and groups; sample ``indices[k]`` is made from ``seeds[k]``."""
    told = partial(conditions, trainer), partial(groups, trainer)
    return measuring.sample_batches(method, *told, indices, seeds, batch_size, role, steps)


def describe(method: Distiller, role: str, steps: int | None) -> str:
    """``teacher, 35 calls``: who made a sample and with how many network calls."""
    calls = method.evaluations(role, steps)
    return f"{role}, {calls} call{'s' if calls != 1 else ''}"
