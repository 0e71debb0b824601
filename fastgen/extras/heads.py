"""Heads of a discriminator that are told the condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.wrappers.features import DiscriminatorHead
from fastgen.denoisers.wrappers.routed import pooled

MAP = 64
"""Numbers in which features and condition are compared, as in Projected GAN."""


class ProjectionHead(nn.Module):
    """``logit = w . h + (map h) . (embedding of c) / sqrt(64)``, h of the features (Miyato & Koyama 2018, 1802.05637).

    Args:
        in_shape: Shape of the features without the batch axis.
        width: Hidden channels; ``None`` for as many as the features have.
        condition: Width of what is known of the condition; ``None`` without one.
    """

    def __init__(self, in_shape: Sequence[int], width: int | None, condition: int | None) -> None:
        super().__init__()
        self.plain = DiscriminatorHead(in_shape, width)
        hidden = self.plain.logit.in_features
        self.of_features = None if condition is None else nn.Linear(hidden, MAP, bias=False)
        self.of_condition = None if condition is None else nn.Linear(condition, MAP)

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        """Logits (B,) of features (B, *in_shape) and what is known of the condition (B, D)."""
        features = features.to(self.plain.logit.weight.dtype)
        hidden = self.plain.body(features)
        hidden = hidden.mean(1) if hidden.ndim == 3 else hidden
        logit = self.plain.logit(hidden).squeeze(1)
        if self.of_features is None or self.of_condition is None or condition is None:
            return logit
        together = self.of_features(hidden) * self.of_condition(condition.to(features.dtype))
        return logit + together.sum(1) / math.sqrt(MAP)


def known_of(condition: Condition, num_classes: int) -> Tensor | None:
    """A vector (B, D) of a condition: which label, or the prompt's embedding; ``None`` without one."""
    if "label" in condition:
        return nn.functional.one_hot(condition["label"].long(), num_classes + 1)
    return pooled(condition)
