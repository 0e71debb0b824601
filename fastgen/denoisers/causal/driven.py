"""Conditions that drive the motion of clips, frame by frame: tones, tracks, keys."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import CausalDenoiser
from fastgen.denoisers.networks.labels import LabelledDenoiser


class DrivenDenoiser(LabelledDenoiser, CausalDenoiser):
    """A denoiser of clips that may be told ``condition["drive"]`` (B, F, K); zeros are its null.

    Attributes:
        drive: K; 0 for none.
    """

    drive: int

    def null_condition(self, condition: Condition) -> Condition:
        known = {name: value for name, value in condition.items() if name not in ("drive", "clean", "reference")}
        nulls = dict(super().null_condition(known)) if known or not condition else {}
        for name, value in condition.items():
            if name not in nulls:
                nulls[name] = torch.zeros_like(value) if name == "drive" else value
        return nulls

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        example = dict(super().example_condition(count, device))
        if self.drive:
            example["drive"] = torch.zeros(count, self.frames, self.drive, device=device)
        return example


def without(network: Denoiser, condition: Condition, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The condition with the null of its entries ``names``."""
    null = network.null_condition(condition)
    return {name: null[name] if name in names else value for name, value in condition.items()}
