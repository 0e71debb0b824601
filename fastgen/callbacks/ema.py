"""Exponential moving averages of the student's weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from fastgen import checks
from fastgen.callbacks.surroundings import place
from fastgen.callbacks.updates import AfterStudentUpdates
from fastgen.components import Component
from fastgen.errors import UserError
from fastgen.methods.batch import size_of
from fastgen.run_facts import RunFacts
from fastgen.sharding import local

if TYPE_CHECKING:
    from fastgen.methods.base import Distiller


def half_life_beta(half_life: float, samples_per_update: int, samples_seen: int, ramp_up: float | None) -> float:
    """Factor of the old average such that a sample's influence halves every ``half_life`` samples.

    The half-life is at most ``ramp_up`` times the samples seen before this update, so that early weights are soon
    forgotten (Karras et al. 2022, EDM, arXiv 2206.00364, training code; None switches that off).
    """
    if ramp_up is not None:
        half_life = min(half_life, samples_seen * ramp_up)
    return 0.5 ** (samples_per_update / max(half_life, 1e-8))


def power_beta(gamma: float, update: int) -> float:
    """Factor of the old average at update 1, 2, ... for the profile ``t ** gamma`` (EDM2, 2312.02696, eq. 127)."""
    return (1.0 - 1.0 / update) ** (gamma + 1.0)


@lru_cache
def power_gamma(sigma_rel: float) -> float:
    """The exponent whose profile has width ``sigma_rel``, a fraction of the training (EDM2, arXiv 2312.02696, eq. 126).

    ``sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2)``, i.e. the largest root of
    ``gamma^3 + 7 gamma^2 + (16 - sigma_rel^-2) gamma + 12 - sigma_rel^-2``: 0.05 gives 16.97, 0.10 gives 6.94.
    """
    import numpy as np

    inverse = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


class EMARule(Component, ABC):
    """How much of the old average survives an update."""

    @abstractmethod
    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        """Factor of the old average, in [0, 1]; 0 copies the student.

        Args:
            update: Number of this update, 1, 2, ..., counted from the EMA's start.
            samples_seen: Samples that the student had learned from before this update, from the EMA's start.
            samples_per_update: Samples of this update, over all ranks.
        """


@dataclass(frozen=True)
class ConstantEMA(EMARule):
    """The same factor at every update.

    Args:
        decay: Factor of the old average, e.g. 0.999.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "[)", decay=self.decay)

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return self.decay


@dataclass(frozen=True)
class HalfLifeEMA(EMARule):
    """A half-life in samples, independent of the batch size (EDM, SiD).

    Args:
        half_life: In thousands of samples that the student learned from, over all ranks (500 in EDM and SiD).
        ramp_up: The half-life is at most this fraction of the samples seen; ``None`` for no such limit.
    """

    half_life: float = 500.0
    ramp_up: float | None = 0.05

    def __post_init__(self) -> None:
        checks.positive(self, half_life=self.half_life, ramp_up=self.ramp_up)

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return half_life_beta(1000.0 * self.half_life, samples_per_update, samples_seen, self.ramp_up)


@dataclass(frozen=True)
class PowerEMA(EMARule):
    """A profile that widens with the training (Karras et al. 2023, EDM2, arXiv 2312.02696, section 3).

    Args:
        sigma_rel: Width of the profile as a fraction of the training so far; EDM2 uses 0.05 and 0.10.
        gamma: The exponent itself, instead of ``sigma_rel``; ``None`` goes by ``sigma_rel``.
    """

    sigma_rel: float = 0.10
    gamma: float | None = None

    def __post_init__(self) -> None:
        checks.not_negative(self, gamma=self.gamma)
        checks.between(self, 0.0, 0.28, "()", sigma_rel=self.sigma_rel)

    @property
    def exponent(self) -> float:
        """The exponent of the profile."""
        return power_gamma(self.sigma_rel) if self.gamma is None else self.gamma

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return power_beta(self.exponent, update)


@torch.no_grad()
def move_average(average: nn.Module, student: nn.Module, beta: float) -> None:
    """``average = beta * average + (1 - beta) * student`` for trained parameters, in the average's dtype.

    Buffers are copied.
    """
    pairs = [
        (local(old), local(new))
        for old, new in zip(average.parameters(), student.parameters(), strict=True)
        if new.requires_grad
    ]
    old = [pair[0] for pair in pairs]
    new = [pair[1].to(pair[0].dtype) for pair in pairs]
    torch._foreach_lerp_(old, new, 1.0 - beta)
    for kept, current in zip(average.buffers(), student.buffers(), strict=True):
        local(kept).copy_(local(current))


@torch.no_grad()
def is_finite(network: nn.Module) -> bool:
    """Whether all trained parameters on this process are finite."""
    trained = [local(parameter) for parameter in network.parameters() if parameter.requires_grad]
    largest = torch._foreach_norm(trained, float("inf"))
    return bool(torch.stack([value.float() for value in largest]).isfinite().all()) if trained else True


class EMA(AfterStudentUpdates):
    """Keeps an fp32 moving average of the student, by which the method samples (``role="average"``).

    The average is a network of the method (``method.averages[name]``) and travels in its checkpoints. Several EMAs may
    run at once under different names; the first is the one that is sampled by default.

    Weights that are not finite are no part of an average: the run ends.

    Args:
        name: Name of the average.
        rule: How fast it moves.
        start_step: Student updates before it starts; until then it is a copy of the student.
    """

    def __init__(self, name: str = "ema", rule: EMARule = ConstantEMA(), start_step: int = 0) -> None:
        checks.whole(self, 0, start_step=start_step)
        if not name.isidentifier():
            raise UserError(f"The name of an EMA is a word like 'ema' or 'ema_long', got '{name}'.")
        self.name = name
        self.rule = rule
        self.start_step = start_step
        self.samples_seen = 0

    @property
    def state_key(self) -> str:
        return f"EMA[{self.name}]"

    def setup(self, trainer: Trainer, method: Distiller, stage: str) -> None:
        method.request_average(self.name)
        # Whoever looks at the average after a batch must see it updated.
        place(self, trainer, first=True)

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        """What of it does nothing in a run."""
        if run.ends_before(self.start_step):
            yield (
                f"the average '{self.name}' starts at student update {self.start_step}, but the run ends at "
                f"{run.max_steps}: it stays a copy of the student; lower EMA.start_step."
            )

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        update = trainer.global_step - self.start_step
        samples = size_of(batch) * trainer.world_size
        beta = self.rule.beta(update, self.samples_seen, samples) if update > 0 else 0.0
        if not trainer.strategy.reduce_boolean_decision(is_finite(method.student)):
            raise UserError(
                f"The student's weights are not finite after update {trainer.global_step}, although its gradient was; "
                f"the average '{self.name}' was not moved. Lower the learning rate or set gradient_clip, and resume "
                "from a checkpoint before it."
            )
        move_average(method.averages[self.name], method.student, beta)
        if update > 0:
            self.samples_seen += samples

    def state_dict(self) -> dict[str, Any]:
        return {"samples_seen": self.samples_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples_seen = state_dict["samples_seen"]
