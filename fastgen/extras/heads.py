"""Heads of a discriminator that are told the condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.wrappers.features import DiscriminatorHead
from fastgen.denoisers.wrappers.routed import pooled

REFERENCE = "reference"
"""The name, among conditions, of what is seen in a real sample."""
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


def known_of(condition: Condition, num_classes: int, asked: bool = True) -> Tensor | None:
    """What heads are told of a condition, (B, D): which label, or the prompt's embedding, if ``asked``; the reference.

    ``None`` if that is nothing.
    """
    found: list[Tensor] = []
    own = {name: value for name, value in condition.items() if name != REFERENCE}
    if asked and "label" in own:
        found.append(nn.functional.one_hot(own["label"].long(), num_classes + 1))
    elif asked and (prompt := pooled(own)) is not None:
        found.append(prompt)
    if REFERENCE in condition:
        found.append(condition[REFERENCE])
    return torch.cat([part.to(found[-1].dtype) for part in found], dim=1) if found else None


def over_places(features: Sequence[Tensor]) -> Tensor:
    """The mean over places, (B, C), of the last of some features: maps (B, C, H, W), tokens (B, L, C) or vectors."""
    last = features[-1]
    return last.flatten(2).mean(2) if last.ndim > 3 else last.mean(1) if last.ndim == 3 else last
