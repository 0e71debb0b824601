"""CausalDenoiser: a network that denoises whole clips at once, or chunk by chunk with what earlier chunks left."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.attending import Attending, Call, Layers, Sparsity, frames_of
from fastgen.denoisers.causal.caches import CachePolicy, FullCache, WindowCache
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.errors import UserError


def chunks_of(frames: int, chunk: int, first_chunk: int = 0) -> list[range]:
    """The frames of each chunk of a clip: ``first_chunk`` of them (0: as many as the others), then ``chunk`` each.

    The last chunk has what is left. A ``chunk`` of 0 is the whole clip.
    """
    if chunk == 0:
        return [range(frames)]
    starts = range(first_chunk or chunk, frames, chunk)
    ends = [min(first_chunk or chunk, frames), *(min(start + chunk, frames) for start in starts)]
    return [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def block_mask(chunks: Sequence[range], sees: CachePolicy) -> Tensor:
    """Which frames (columns) each (row) sees: its chunk, and of the earlier ones what the policy keeps, (F, F)."""
    count = chunks[-1].stop
    mask = torch.zeros(count, count, dtype=torch.bool)
    for chunk in chunks:
        rows = slice(chunk.start, chunk.stop)
        mask[rows, rows] = True
        mask[rows, : chunk.start] = torch.tensor([sees.sees(i, chunk.start) for i in range(chunk.start)]).bool()
    return mask


def teacher_forcing_mask(chunks: Sequence[range], sees: CachePolicy) -> Tensor:
    """The mask (2F, 2F) of noisy frames followed by clean copies of them.

    A noisy chunk sees itself and the clean copies of earlier chunks; a clean chunk sees itself and those.
    """
    whole = block_mask(chunks, sees)
    own = block_mask(chunks, WindowCache(0))
    before = whole & ~own
    return torch.cat([torch.cat([own, before], 1), torch.cat([torch.zeros_like(own), whole], 1)])


class CausalDenoiser(Denoiser):
    """A denoiser of clips that can be told which frames see which.

    - ``network(x_t, t, condition)`` denoises clips (B, ...) in parallel. With a ``chunk`` a frame sees its own chunk
      and earlier ones (block-causal); without, all frames (bidirectional).
    - ``t`` is a time per sample (B,), or one per frame: (B, F), with axes of length 1 up to :attr:`frame_axis`, which
      :meth:`per_frame` puts in.
    - ``condition["clean"]``, clips (B, ...), makes it teacher forcing: noisy chunks see themselves and earlier clean
      ones.
    - Within :meth:`calling` the network denoises one chunk that sees the frames of the call.

    A subclass gives :meth:`denoise_frames`, and these numbers as attributes.

    Attributes:
        frame_axis: Axis of the frames in a sample without the batch axis.
        chunk: Frames of a chunk; 0 is one chunk, the bidirectional network.
        first_chunk: Frames of the first chunk; 0 for as many as of the others.
        attends: Which earlier frames a chunk sees when whole clips are denoised.
        sparsity: Which keys queries see then; ``None`` for all.
    """

    frame_axis: int = 0
    chunk: int = 0
    first_chunk: int = 0
    attends: CachePolicy = FullCache()
    sparsity: Sparsity | None = None
    running: Call | None = None

    @abstractmethod
    def denoise_frames(
        self, x: Tensor, times: Tensor, condition: Condition, seen: Attending, second: Tensor | None
    ) -> tuple[Tensor, Layers]:
        """The raw answer for frames ``x`` (B, ...) at ``times`` (B, F), and keys and values of each layer.

        Args:
            x: The frames.
            times: A time of the process for each.
            condition: As in ``predict``.
            seen: What they see.
            second: The second time of a flow map for each, (B, F), if it was given.
        """

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        axis, clean = 1 + self.frame_axis, condition.get("clean")
        count = x_t.shape[axis]
        times, second = self.frame_times(t, count), None if s is None else self.frame_times(s, count)
        if self.running is not None:
            value, layers = self.denoise_frames(x_t, times, condition, self.running.seen, second)
            self.running.left = frames_of(layers, self.running.seen.indices)
            return value
        seen = self.whole_clip(count, clean is not None)
        if clean is not None:
            x_t = torch.cat([x_t, clean.to(x_t.dtype)], axis)
            ends = torch.full_like(times, self.process.t_clean)
            times = torch.cat([times, ends], 1)
            second = None if second is None else torch.cat([second, ends], 1)
        value, _ = self.denoise_frames(x_t, times, condition, seen, second)
        return value.narrow(axis, 0, count)

    def whole_clip(self, count: int, clean: bool) -> Attending:
        """What the frames of a clip see, if need be with their clean copies behind them."""
        chunks = chunks_of(count, self.chunk, self.first_chunk)
        own, indices = torch.arange(count, dtype=torch.float64), tuple(range(count))
        if clean:
            mask: Tensor | None = teacher_forcing_mask(chunks, self.attends)
            return Attending(own.repeat(2), indices * 2, mask=mask, sparsity=self.sparsity)
        mask = block_mask(chunks, self.attends) if len(chunks) > 1 else None
        return Attending(own, indices, mask=mask, sparsity=self.sparsity)

    def frame_times(self, t: Tensor, count: int) -> Tensor:
        """Times (B, F) of ``count`` frames from a time per sample or per frame."""
        return (t[:, None] if t.ndim == 1 else t.flatten(1)).expand(-1, count)

    def per_frame(self, values: Tensor) -> Tensor:
        """Numbers (B, F) in the shape in which they stand beside clips: (B, F), (B, 1, F), ..."""
        return values.reshape(len(values), *[1] * self.frame_axis, -1)

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.sample_shape[self.frame_axis]

    def chunk_shape(self, count: int) -> tuple[int, ...]:
        """The shape of ``count`` frames without the batch axis."""
        shape = list(self.sample_shape)
        shape[self.frame_axis] = count
        return tuple(shape)

    @contextmanager
    def calling(self, call: Call) -> Iterator[None]:
        """Inside, the network denoises a chunk that sees what ``call`` says; afterwards that knows what it left."""
        before, self.running = self.running, call
        try:
            yield
        finally:
            self.running = before


def causal(network: Denoiser) -> CausalDenoiser:
    """The causal network behind a denoiser, maybe an adapter on it.

    Raises:
        UserError: If it is none.
    """
    if not isinstance(network.backbone, CausalDenoiser):
        raise UserError(
            f"{type(network).__name__} is no causal network of clips; give the student one such as ClipTransformer or "
            "CausalWan."
        )
    return network.backbone


@dataclass(frozen=True)
class CausalCopy(CopyOfTeacher):
    """A copy of a bidirectional teacher of clips whose frames see no later chunk.

    Args:
        chunk: Frames of a chunk.
        first_chunk: Frames of the first chunk; 0 for as many.
        attends: Which earlier frames a chunk sees when whole clips are denoised.
    """

    chunk: int = 3
    first_chunk: int = 0
    attends: CachePolicy = FullCache()

    def __post_init__(self) -> None:
        checks.whole(self, chunk=self.chunk)
        checks.whole(self, 0, first_chunk=self.first_chunk)

    def build(self, teacher: Denoiser) -> Denoiser:
        network: Any = causal(super().build(teacher))
        network.chunk, network.first_chunk, network.attends = self.chunk, self.first_chunk, self.attends
        return network
