"""Advantages: how much better a sample is than others of its group."""

from __future__ import annotations

import torch
from torch import Tensor


def normalised_within_groups(rewards: Tensor, groups: Tensor, floor: float = 1e-3) -> Tensor:
    """``(r - mean) / (std + floor)``, mean and std over the samples of the same group, (N,) like ``rewards``.

    The group-relative advantage of Shao et al. 2024, GRPO, arXiv 2402.03300, with the standard deviation of the group
    itself (not that of a population which it samples).

    Args:
        rewards: (N,).
        groups: The number of each sample's group, (N,), int64, in any order.
        floor: Keeps groups whose members are alike from being told apart by rounding.
    """
    _, member, count = torch.unique(groups, return_inverse=True, return_counts=True)

    def mean(values: Tensor) -> Tensor:
        return (torch.zeros_like(count, dtype=rewards.dtype).index_add_(0, member, values) / count)[member]

    above = rewards - mean(rewards)
    return above / (mean(above.square()).sqrt() + floor)


def exponential_weight(rewards: Tensor, beta: float, limit: float) -> Tensor:
    """``exp(min(beta r, limit))`` (B,), fp64: weights that make samples of p those of ``p exp(beta r)``."""
    return (beta * rewards.double()).clamp(max=limit).exp()
