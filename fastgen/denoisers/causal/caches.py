"""What a stream remembers of the chunks that it has made: one policy per class.

Keys are kept before the rotation by position. So a policy may say anew, for every call, where the frames that it kept
stand (``positions``):

- ``absolute``: at their places in the clip, as in Self Forcing (arXiv 2506.08009);
- ``slot``: in a row, counted from 0, with the called chunk behind them (Reward Forcing, arXiv 2512.04678; MotionStream,
  arXiv 2511.01266), so that no position exceeds what training saw;
- ``rolling``: at their places, but the sink so close to the rest as if it had always been there (Live Avatar, arXiv
  2512.04677). Attention knows differences only, so with a sink right before the window this is ``slot``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.denoisers.causal.attending import Memory, mixed
from fastgen.errors import UserError

Positions = Literal["absolute", "slot", "rolling"]


class CachePolicy(Component, ABC):
    """Which frames of a stream are kept, and as what.

    Attributes:
        refresh: Whether a finished chunk is called once more, clean, to leave clean keys and values behind. Else every
            call of a chunk leaves its own, for the call at the same noise level of the next chunks.
        sink: Number of first frames that stay.
    """

    refresh: ClassVar[bool] = True
    sink: int = 0
    positions: Positions = "absolute"

    @abstractmethod
    def keep(self, memory: Memory, written: Memory) -> Memory:
        """What is kept after the frames ``written`` were added to ``memory``."""

    def sees(self, frame: int, first: int) -> bool:
        """Whether the chunk that begins at frame ``first`` sees the earlier ``frame``, for masks of whole clips.

        Raises:
            UserError: If no mask says what this policy keeps.
        """
        raise UserError(f"{type(self).__name__} has no mask, since it changes what it keeps; call it chunk by chunk.")

    def places(self, memory: Memory, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Positions of the kept frames, (M,), and of the called ones, (F,)."""
        kept = torch.tensor([frame.index for frame in memory], dtype=torch.float64)
        own = torch.tensor(list(indices), dtype=torch.float64)
        if self.positions == "slot":
            kept = torch.arange(len(memory), dtype=torch.float64)
            own = len(memory) + torch.arange(len(own), dtype=torch.float64)
        elif self.positions == "rolling" and self.sink > 0:
            sink = min(self.sink, len(memory))
            following = float(kept[sink]) if len(memory) > sink else float(own[0])
            kept[:sink] = following - sink + torch.arange(sink, dtype=torch.float64)
        return kept, own


@dataclass(frozen=True)
class FullCache(CachePolicy):
    """Every frame stays."""

    def keep(self, memory: Memory, written: Memory) -> Memory:
        return memory + written

    def sees(self, frame: int, first: int) -> bool:
        return True


@dataclass(frozen=True)
class WindowCache(CachePolicy):
    """The last frames stay, and the first ones as a sink if it has any.

    Args:
        window: Number of frames before a chunk that it sees, beside the sink.
        sink: Number of first frames that stay for ever.
        positions: Where the kept frames stand, see above.
    """

    window: int = 6
    sink: int = 0
    positions: Positions = "absolute"

    def __post_init__(self) -> None:
        checks.whole(self, 0, window=self.window, sink=self.sink)

    def keep(self, memory: Memory, written: Memory) -> Memory:
        kept = memory + written
        end = max(len(kept) - self.window, min(self.sink, len(kept)))
        return self.after(kept[: self.sink], kept[self.sink : end]) + kept[end:]

    def after(self, sink: Memory, leaving: Memory) -> Memory:
        """The sink after the frames ``leaving`` have left the window."""
        return sink

    def sees(self, frame: int, first: int) -> bool:
        return frame < self.sink or frame >= first - self.window


@dataclass(frozen=True)
class EMASink(WindowCache):
    """A sink that takes in what leaves the window (Reward Forcing, arXiv 2512.04678; JaydenLyh/Reward-Forcing).

    ``S <- a S + (1 - a) K`` for keys and values of every layer, frame by frame: the frame that leaves as number i goes
    into slot ``i mod sink``. With chunks as long as the sink that is the paper's; the official code overwrites others.

    Args:
        window: As in :class:`WindowCache`; the paper's nine frames are a sink of 3, a window of 3 and a chunk of 3.
        sink: Number of slots.
        positions: As there.
        decay: a; 1 is a sink that never changes.
    """

    window: int = 3
    sink: int = 3
    positions: Positions = "slot"
    decay: float = 0.999

    def __post_init__(self) -> None:
        checks.whole(self, 0, window=self.window)
        checks.whole(self, sink=self.sink)
        checks.fraction(self, decay=self.decay)

    def after(self, sink: Memory, leaving: Memory) -> Memory:
        slots = list(sink)
        for frame in leaving:
            slot = int(frame.index) % self.sink
            slots[slot] = mixed([self.decay, 1.0 - self.decay], [slots[slot], frame], slots[slot].index)
        return tuple(slots)

    def sees(self, frame: int, first: int) -> bool:
        return CachePolicy.sees(self, frame, first)


@dataclass(frozen=True)
class NoisyCache(WindowCache):
    """Each call of a chunk sees what the same call of earlier chunks left behind; no clean call refreshes it.

    Timestep-forcing of Live Avatar (arXiv 2512.04677): the calls of a chunk can then run on a device each. The sink is
    clean, from one clean call of the first chunk.

    Args:
        window: As in :class:`WindowCache`; the paper's is four chunks.
        sink: As there; the paper's is one frame.
        positions: As there.
    """

    refresh: ClassVar[bool] = False
    window: int = 12
    sink: int = 1
    positions: Positions = "rolling"


@dataclass(frozen=True)
class CompressedCache(CachePolicy):
    """Near frames stay as they are, of far ones the mean of every few (after FAR's compressed context in AnyFlow).

    AnyFlow (arXiv 2605.13724) embeds far chunks once more with larger patches; means of keys and values need no second
    embedding. Derived.

    Args:
        near: Number of last frames that stay whole.
        factor: Number of far frames that become one.
        positions: Where the kept frames stand; merged ones stand at the mean of their places.
    """

    near: int = 9
    factor: int = 4
    positions: Positions = "absolute"

    def __post_init__(self) -> None:
        checks.whole(self, 0, near=self.near)
        checks.whole(self, factor=self.factor)

    def keep(self, memory: Memory, written: Memory) -> Memory:
        kept = memory + written
        far = tuple(frame for frame in kept if frame.count > 1)
        near = kept[len(far) :]
        while self.factor > 1 and len(near) - self.factor >= self.near:
            group, near = near[: self.factor], near[self.factor :]
            place = sum(frame.index for frame in group) / self.factor
            far += (mixed([1.0 / self.factor] * self.factor, group, place, self.factor),)
        return far + near
