"""StreamingSampler: chunks without end, each for what is asked for now."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.clips.chunks import ChunkSampler
from fastgen.sampling.clips.streams import Stream


class StreamingSampler:
    """A causal student as it streams: one chunk at a time, with memory that does not grow if the cache has a window.

    The first chunks are those of :meth:`ChunkSampler.sample` with the same random numbers. What is asked for may change
    between chunks. What is remembered stays as it was made, unless it is computed anew for the new condition (LongLive,
    arXiv 2509.22622), which needs the frames that are remembered once more through the network.

    Example:
        >>> stream = StreamingSampler(method.sampler, method.network("average"), Draws(0, [seed]))
        >>> first = stream.next({"label": torch.tensor([3])})
        >>> stream.recall({"label": torch.tensor([5])})
        >>> second = stream.next({"label": torch.tensor([5])})

    Args:
        sampler: How a chunk is made, and what is remembered.
        denoiser: The student.
        draws: Random numbers of the samples.
        dtype: Of the noise.
    """

    def __init__(
        self, sampler: ChunkSampler, denoiser: Denoiser, draws: Draws, dtype: torch.dtype = torch.float32
    ) -> None:
        self.sampler = sampler
        self.denoiser = denoiser
        self.draws = draws
        self.dtype = dtype
        self.times = sampler.schedule(denoiser)
        network = causal(denoiser)
        self.size = network.chunk if isinstance(sampler.chunk, str) else sampler.chunk
        self.first_size = network.first_chunk or self.size
        if self.size == 0:
            raise UserError("A stream is made chunk by chunk; give the student, or its sampler, a chunk.")
        self.stream: Stream | None = None
        self.made: list[tuple[range, Tensor]] = []
        self.number = 0

    @torch.no_grad()
    def next(self, condition: Condition) -> Tensor:
        """The next chunk, x0 (B, ...), for ``condition``."""
        if self.stream is None:
            self.stream = self.sampler.stream(self.denoiser, condition)
        start = self.stream.made
        frames = range(start, start + (self.size if self.number else self.first_size))
        draws = self.draws.scoped(f"chunk{self.number}") if self.number else self.draws
        times = self.sampler.times_of(self.number, self.times)
        chunk = self.sampler.make(self.stream, frames, False, draws, condition, times, self.dtype)
        self.number += 1
        x0 = chunk.calls[-1].x0
        self.made = [(known, clip) for known, clip in [*self.made, (frames, x0)] if self.remembers(known)]
        return x0

    def remembers(self, frames: range) -> bool:
        """Whether anything of a chunk is remembered as it was made."""
        assert self.stream is not None
        places = {frame.index for memory in self.stream.memories.values() for frame in memory}
        return bool(places & set(map(float, frames)))

    @torch.no_grad()
    def recall(self, condition: Condition) -> None:
        """Compute what is remembered anew, from the chunks that it is of, as if ``condition`` had been asked for.

        Raises:
            UserError: If the memories are no function of those chunks.
        """
        if self.stream is None:
            return
        if not self.sampler.cache.refresh or any(f.count > 1 for m in self.stream.memories.values() for f in m):
            raise UserError(f"What {type(self.sampler.cache).__name__} remembers cannot be computed anew.")
        stream, made = self.sampler.stream(self.denoiser, condition), self.stream.made
        for frames, x0 in self.made:
            stream.made = frames.start
            view = stream.chunk(len(frames))
            stream.write(view, x0, condition)
        stream.made, self.stream = made, stream
