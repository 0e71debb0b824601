"""Guidance by several conditions, each with a scale of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, concatenate
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import GuidedPrediction
from fastgen.errors import UserError
from fastgen.processes import Prediction


def asked(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, nulls: Sequence[Sequence[str]]
) -> list[Tensor]:
    """The raw answers (B, ...), in one call, with the null of the entries that each of ``nulls`` names.

    Raises:
        UserError: If the condition lacks an entry.
    """
    if missing := {name for names in nulls for name in names} - set(condition):
        raise UserError(f"Guidance is by '{min(missing)}', but the data module gives no such condition.")
    null = denoiser.null_condition(condition)
    told = [{n: null[n] if n in names else v for n, v in condition.items()} for names in nulls]
    count = len(nulls)
    value = denoiser(torch.cat([x_t] * count), torch.cat([t] * count), concatenate(told)).value
    return list(value.chunk(count))


@dataclass(frozen=True)
class SeveralScales(Component, ABC):
    """A guided prediction by conditions that have scales of their own; subclasses say how they are mixed.

    Args:
        scales: The scale of each condition, by its name.
    """

    scales: Mapping[str, float]

    def __post_init__(self) -> None:
        checks.not_negative(self, scales=self.scales)
        checks.not_empty(self, scales=self.scales)

    @abstractmethod
    def mixed(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The guided answer in the kind of the denoiser, (B, ...)."""

    def __call__(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition) -> GuidedPrediction:
        """The guided prediction."""
        mixed = self.mixed(denoiser, x_t, t, condition)
        return GuidedPrediction(Prediction(denoiser.process, x_t, t, mixed, denoiser.prediction), None, None)


@dataclass(frozen=True)
class NestedScales(SeveralScales):
    """``v_0 + sum_i w_i (v_i - v_{i-1})``, where v_i is told the first i conditions.

    LiveTalk (arXiv 2512.23576) with text, then audio; FADA (arXiv 2412.16915) with a reference, then audio. All scales
    1 are no guidance.

    Args:
        scales: The scale of each condition, by its name, in their order.
    """

    scales: Mapping[str, float]

    def mixed(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        names = tuple(self.scales)
        told = asked(denoiser, x_t, t, condition, [names[i:] for i in range(len(names) + 1)])
        pairs = zip(told, told[1:], self.scales.values(), strict=False)
        return told[0] + sum((w * (after - before) for before, after, w in pairs), torch.zeros_like(told[0]))


@dataclass(frozen=True)
class JointScales(SeveralScales):
    """``sum_i w_i / W v_i + sum_i w_i (v - v_i)``, where v is told all conditions, v_i all but the i-th, and W is the
    sum of the scales.

    MotionStream (arXiv 2511.01266) with text 3 and motion 1.5. One scale w alone is usual guidance by w, without which
    the other conditions stay.

    Args:
        scales: The scale of each condition, by its name.
    """

    scales: Mapping[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.scales.values()) == 0.0:
            raise UserError("JointScales: scales must not all be 0, for then nothing is asked; give one above 0.")

    def mixed(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        whole, *without = asked(denoiser, x_t, t, condition, [(), *((name,) for name in self.scales)])
        total = sum(self.scales.values())
        terms = (w / total * v + w * (whole - v) for v, w in zip(without, self.scales.values(), strict=True))
        return sum(terms, torch.zeros_like(whole))
