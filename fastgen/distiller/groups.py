"""Groups: samples of one condition, judged against each other wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen.objectives.advantages import normalised_within_groups
from fastgen.randomness import COPY, Draws

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


def group_numbers(draws: Draws, size: int) -> Tensor:
    """The group of each sample, (B,): ``size`` consecutive samples of the run are one, with their copies."""
    return torch.tensor([(i & COPY - 1) // size for i in draws.indices], dtype=torch.int64, device=draws.device)


@torch.no_grad()
def group_advantages(
    method: Distiller, parts: Sequence[MicroBatch], rewards: Sequence[Tensor], floor: float = 1e-3
) -> list[Tensor]:
    """Rewards, normalised within the groups of a batch; members in other micro-batches and on other ranks count.

    A group is ``method.samples_per_condition`` consecutive samples of the run, with all the copies that
    :meth:`MicroBatch.repeated` made of them. For ``before_update``, which sees all the pieces; every rank must call it.

    Args:
        method: Whose batch it is.
        parts: Its pieces on this rank.
        rewards: One for each sample of each piece, (B,).
        floor: As in :func:`~fastgen.objectives.advantages.normalised_within_groups`.

    Returns:
        The advantages of each piece, (B,), fp64.
    """
    groups = torch.cat([group_numbers(part.draws, method.samples_per_condition) for part in parts])
    own = torch.stack([torch.cat(list(rewards)).double(), groups.double()], 1)
    world = method.trainer.strategy.all_gather(own).reshape(-1, 2)
    advantages = normalised_within_groups(world[:, 0], world[:, 1].long(), floor)
    first = method.global_rank * len(own)
    return list(advantages[first : first + len(own)].split([len(part.draws) for part in parts]))
