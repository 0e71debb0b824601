"""Conditions (what to generate) and guidance (how strongly)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.shapes import where_rows

Condition = Mapping[str, Tensor]
"""Named tensors, all with the same leading batch size, e.g. ``{"label": (B,)}`` or ``{"prompt_embeds": (B, L, D)}``.
An empty mapping means unconditional."""


def select(condition: Condition, rows: slice | Tensor) -> dict[str, Tensor]:
    """The condition of some samples of the batch."""
    return {name: value[rows] for name, value in condition.items()}


def concatenate(conditions: Sequence[Condition]) -> dict[str, Tensor]:
    """Several batches of conditions as one."""
    return {name: torch.cat([c[name] for c in conditions]) for name in conditions[0]}


def where(mask: Tensor, chosen: Condition, otherwise: Condition) -> dict[str, Tensor]:
    """Per sample ``chosen`` where ``mask`` (B,) is true, else ``otherwise``."""
    return {name: where_rows(mask, value, otherwise[name]) for name, value in chosen.items()}


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance scales of a score distillation; 1 means no guidance (Ho & Salimans 2022, 2207.12598).

    The guided prediction is ``uncond + w (cond - uncond)``; a scale of 0 is the unconditional network alone.

    | policy                               | teacher | critic | critic_training | source     |
    |--------------------------------------|---------|--------|-----------------|------------|
    | Long and short guidance (SiD-LSG)    | w       | w      | w               | 2406.01561 |
    | Zero-CFG: the critic is never told   | 1       | 0      | 0               | 2505.12674 |
    | Anti-CFG (its scale is not verified) | 1       | < 0    | 1               | 2505.12674 |

    Args:
        teacher: Scale of the teacher in the student's loss (w of DMD2, kappa4 of SiD-LSG).
        critic: Scale of the critic in the student's loss (kappa2 = kappa3 of SiD-LSG, arXiv 2406.01561).
        critic_training: Scale of the critic inside its own denoising loss (kappa1 of SiD-LSG).
        condition_dropout: Probability of training the critic on the null condition.
    """

    teacher: float = 1.0
    critic: float = 1.0
    critic_training: float = 1.0
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        checks.not_negative(self, teacher=self.teacher, critic_training=self.critic_training)
        checks.finite(self, critic=self.critic)
        checks.fraction(self, condition_dropout=self.condition_dropout)
