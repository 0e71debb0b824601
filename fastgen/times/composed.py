"""Laws made of other laws: one draw for all, one law for each step, from one law to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.chains import Chain
from fastgen.times.levels import TimeLaw


@dataclass(frozen=True)
class SharedLevel(TimeLaw):
    """One draw for all samples of a step, on all ranks and in all micro-batches (DP-DMD, arXiv 2602.03139).

    Args:
        law: The law that is drawn from once.
    """

    law: TimeLaw

    def sample(self, draws: Draws, process: Process) -> Tensor:
        return self.law.sample(draws.shared(), process)

    def given(self, chain: Chain) -> TimeLaw:
        return SharedLevel(self.law.given(chain))


@dataclass(frozen=True)
class LevelOfStep(TimeLaw):
    """A law for each of the student's steps, by the step at which a rollout stopped.

    Args:
        laws: One for each step, the noisiest first.
    """

    laws: Sequence[TimeLaw]

    def __post_init__(self) -> None:
        checks.not_empty(self, laws=self.laws)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        raise UserError("LevelOfStep needs a student's chain; use it for renoise_time, critic_time or guidance_time.")

    def given(self, chain: Chain) -> TimeLaw:
        last = int(torch.as_tensor(chain.step).max())
        if last >= len(self.laws):
            raise UserError(
                f"LevelOfStep has {len(self.laws)} laws, but the student stopped at its step {last + 1}; give a law "
                "for each of the sampler's steps."
            )
        return _ByStep([law.given(chain) for law in self.laws], chain.step)


@dataclass(frozen=True, eq=False)
class _ByStep(TimeLaw):
    """Of each sample the law of its step."""

    laws: Sequence[TimeLaw]
    step: int | Tensor

    def sample(self, draws: Draws, process: Process) -> Tensor:
        if isinstance(self.step, int):
            return self.laws[self.step].sample(draws, process)
        drawn = torch.stack([law.sample(draws, process) for law in self.laws])
        return drawn.gather(0, self.step.to(drawn.device)[None])[0]


@dataclass(frozen=True)
class AnnealedLevel(TimeLaw):
    """From one law to another over the training, evenly in the position of the levels (see ``UniformTime``).

    Args:
        first: The law at first.
        last: The law after ``updates``.
        updates: Student updates until it is reached.
    """

    first: TimeLaw
    last: TimeLaw
    updates: int = 1000

    def __post_init__(self) -> None:
        checks.whole(self, updates=self.updates)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        raise UserError("AnnealedLevel follows a score term; use it for renoise_time, critic_time or guidance_time.")

    def given(self, chain: Chain) -> TimeLaw:
        share = min(chain.update / self.updates, 1.0)
        return _Between(self.first.given(chain), self.last.given(chain), share)


@dataclass(frozen=True, eq=False)
class _Between(TimeLaw):
    """A share of the way from one law's draw to the other's."""

    first: TimeLaw
    last: TimeLaw
    share: float

    def sample(self, draws: Draws, process: Process) -> Tensor:
        first, last = (process.fraction(law.sample(draws, process)) for law in (self.first, self.last))
        return process.position(first + self.share * (last - first))
