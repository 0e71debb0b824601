"""Learning-rate schedules whose length is the run's: they follow ``trainer.max_steps``, also when it is changed.

A schedule of torch has its length as a number of its own, so a run that is cut short or resumed for longer trains
at the wrong rates. These are told the progress of the run by the method and keep nothing of it in checkpoints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastgen import checks
from fastgen.errors import UserError


class RunLength(LRScheduler, ABC):
    """A learning rate as a function of the run's progress, in student updates, for every role alike.

    Args:
        optimizer: Whose learning rates are scheduled.
        warm_up: Student updates over which they rise linearly from zero.
        length: Student updates after which the schedule ends; ``max_steps`` is the trainer's.
    """

    def __init__(
        self, optimizer: Optimizer, warm_up: int = 0, length: int | Literal["max_steps"] = "max_steps"
    ) -> None:
        checks.whole(self, 0, warm_up=warm_up)
        self.warm_up, self.length = warm_up, None if isinstance(length, str) else length
        checks.whole(self, length=self.length)
        checks.strictly_ascending(self, warm_up=warm_up, length=self.length)
        self.numbers: dict[str, Any] = {"warm_up": warm_up, "length": length}
        self.updates: Callable[[], int] | None = None
        super().__init__(optimizer)

    def follow(self, updates: Callable[[], int], max_steps: int) -> None:
        """Take the number of student updates from ``updates``, and the length from the trainer if it is not given.

        Raises:
            UserError: If the length is unknown or not longer than the warm-up.
        """
        self.updates = updates
        if self.length is None:
            if max_steps <= self.warm_up:
                raise UserError(
                    f"{type(self).__name__} ends with the run: set trainer.max_steps above its warm_up "
                    f"({self.warm_up}), or give it a length."
                )
            self.length = max_steps
        self.apply()

    @abstractmethod
    def decayed(self, progress: float) -> float:
        """The factor at ``progress`` in [0, 1] from the end of the warm-up to the end."""

    def factor(self, updates: int) -> float:
        """The factor of the learning rate after so many student updates."""
        if updates < self.warm_up:
            return (updates + 1) / (self.warm_up + 1)
        if self.length is None:
            return self.decayed(0.0)
        return self.decayed(min(1.0, (updates - self.warm_up) / (self.length - self.warm_up)))

    def get_lr(self) -> list[float | Tensor]:
        """The rates now."""
        factor = self.factor(self.last_epoch if self.updates is None else self.updates())
        return [float(base) * factor for base in self.base_lrs]

    def apply(self) -> None:
        """Give the optimizer the rates of now."""
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """How often it stepped, and what the config said, by which a resume sees what was changed."""
        return {"last_epoch": self.last_epoch, **self.numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As :meth:`state_dict` gives it; the config's numbers and the run's length stay those of now."""
        self.last_epoch = state_dict["last_epoch"]
        self.apply()


class Cosine(RunLength):
    """Half a cosine from the learning rate down to a fraction of it (Loshchilov & Hutter 2016, arXiv 1608.03983).

    Args:
        optimizer: Whose learning rates are scheduled.
        warm_up: Student updates over which they rise linearly from zero.
        length: Student updates after which it ends; ``max_steps`` is the trainer's.
        low: The fraction at the end.
    """

    def __init__(
        self, optimizer: Optimizer, warm_up: int = 0, length: int | Literal["max_steps"] = "max_steps", low: float = 0.0
    ) -> None:
        checks.fraction(self, low=low)
        self.low = low
        super().__init__(optimizer, warm_up, length)
        self.numbers["low"] = low

    def decayed(self, progress: float) -> float:
        return self.low + (1.0 - self.low) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Linear(RunLength):
    """A line from the learning rate down to a fraction of it.

    Args:
        optimizer: Whose learning rates are scheduled.
        warm_up: Student updates over which they rise linearly from zero.
        length: Student updates after which it ends; ``max_steps`` is the trainer's.
        low: The fraction at the end.
    """

    def __init__(
        self, optimizer: Optimizer, warm_up: int = 0, length: int | Literal["max_steps"] = "max_steps", low: float = 0.0
    ) -> None:
        checks.fraction(self, low=low)
        self.low = low
        super().__init__(optimizer, warm_up, length)
        self.numbers["low"] = low

    def decayed(self, progress: float) -> float:
        return 1.0 - (1.0 - self.low) * progress


class InverseSquareRoot(LRScheduler):
    """``1 / sqrt(max(updates / start, 1))`` (Karras et al. 2023, EDM2, arXiv 2312.02696); it knows no end.

    Args:
        optimizer: Whose learning rates are scheduled.
        start: Updates of the role before the decay.
    """

    def __init__(self, optimizer: Optimizer, start: int = 2000) -> None:
        checks.whole(self, start=start)
        self.start = start
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates now."""
        return [float(base) / max(self.last_epoch / self.start, 1.0) ** 0.5 for base in self.base_lrs]
