"""ChunkSampler: clips chunk by chunk, each by a few calls that see the chunks before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal, chunks_of
from fastgen.denoisers.causal.caches import CachePolicy, FullCache
from fastgen.errors import UserError
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.clips.streams import Chunk, Stream
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.renoise import RenoiseSampler


@dataclass(frozen=True)
class ChunkSampler(RenoiseSampler):
    """Self Forcing's rollout (Huang et al. 2025, arXiv 2506.08009; guandeh17/Self-Forcing): chunk after chunk.

    A chunk begins as noise, is called at the sampler's times with fresh noise between, and sees what the chunks before
    it left behind. A rollout stops every chunk at a random call, whose x0 is the chunk and records the only graph;
    what a chunk leaves behind is cut from it. The last chunk leaves nothing, so a clip of N chunks takes
    ``N (k + 1) + N - 1`` calls if the k-th stops. With one chunk it is :class:`RenoiseSampler`, bit for bit.

    Args:
        times: As in :class:`RenoiseSampler`.
        level: As there.
        steps: As there.
        stop: Where the calls of a rollout stop: a ``random`` one that all ranks share, or the ``last``.
        gradient_calls: How many of each chunk's last calls record a graph.
        chunk: Frames of a chunk; ``network`` for what the student's masks say.
        cache: What is remembered of earlier chunks.
        exits: Whether all chunks stop at the ``same`` call or at one for ``each``; ranks share both.
        context_noise: Time of the student's process at which finished chunks are called for their memory.
        first_times: Times of the first chunk's calls, if it has others (first-frame enhancement, arXiv 2511.01419);
            ``same`` if not.
        length: Frames of a rollout, at least those of the clip that is judged, which are the last ones; 0 for as many.
        gradient_frames: Frames at the end that record a graph; 0 for all of the clip.
        through_memory: Let the gradient run through what chunks leave behind, too.
    """

    moves: ClassVar[None] = None  # type: ignore[assignment]  # no pipeline of diffusers remembers chunks
    chunk: int | Literal["network"] = "network"
    cache: CachePolicy = FullCache()
    exits: Literal["same", "each"] = "same"
    context_noise: float = 0.0
    first_times: Sequence[float] | Literal["same"] = "same"
    length: int = 0
    gradient_frames: int = 0
    through_memory: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk != "network":
            checks.whole(self, 0, chunk=self.chunk)
        checks.whole(self, 0, length=self.length, gradient_frames=self.gradient_frames)
        checks.not_negative(self, context_noise=self.context_noise)
        if self.exits == "each" and not self.cache.refresh:
            raise UserError(
                f"{type(self).__name__}: {type(self.cache).__name__} remembers every call of a chunk, so all chunks "
                "stop at the same one; leave exits at same."
            )
        if self.first_times != "same":
            checks.not_empty(self, first_times=self.first_times)
            checks.not_negative(self, first_times=self.first_times)
            if any(a <= b for a, b in pairwise(self.first_times)):
                raise UserError(f"{type(self).__name__}: first_times must decrease, got {list(self.first_times)}.")

    # ------------------------------------------------------------------ chunks

    def chunks(self, denoiser: Denoiser, frames: int) -> list[range]:
        """The frames of each chunk of a clip."""
        network = causal(denoiser)
        chunk = network.chunk if isinstance(self.chunk, str) else self.chunk
        return chunks_of(frames, chunk, network.first_chunk)

    def stream(self, denoiser: Denoiser, condition: Condition) -> Stream:
        """A clip that has not begun; frames under ``condition["reference"]`` (B, ...) are its first ones."""
        noise = self.context_noise or denoiser.process.t_clean
        return Stream(denoiser, self.cache, noise, not self.through_memory, condition.get("reference"))

    def times_of(self, number: int, times: Sequence[float]) -> Sequence[float]:
        """The times of the calls of chunk ``number``, where most chunks have ``times``."""
        return times if number or isinstance(self.first_times, str) else self.first_times

    def make(
        self,
        stream: Stream,
        frames: range,
        last: bool,
        draws: Draws,
        condition: Condition,
        times: Sequence[float],
        dtype: torch.dtype,
        noise: Tensor | None = None,
    ) -> Chunk:
        """The next chunk of a stream, called at all of ``times``; the ``last`` one leaves nothing behind."""
        view = stream.chunk(len(frames))
        calls = tuple(self.calls(view, draws, condition, times, dtype, noise, self.gradient_calls))
        if not last:
            x0 = calls[-1].x0 if self.through_memory else calls[-1].x0.detach()
            drawn = draws.normal("context", x0.shape[1:], x0.dtype) if self.context_noise else None
            stream.write(view, x0, condition, drawn)
        return Chunk(frames, calls, len(times) - 1)

    def made(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        frames: int,
        times: Callable[[int, Draws], Sequence[float]],
        dtype: torch.dtype,
        noise: Tensor | None = None,
        recorded: int | None = None,
    ) -> Iterator[Chunk]:
        """The chunks of a clip; the last ``recorded`` frames (default all) record graphs if gradients are enabled.

        The first chunk has the random numbers of a sampler without chunks, each further one has its own.
        """
        stream, axis = self.stream(denoiser, condition), 1 + causal(denoiser).frame_axis
        chunks, enabled = self.chunks(denoiser, frames), torch.is_grad_enabled()
        for number, chunk in enumerate(chunks):
            own = draws.scoped(f"chunk{number}") if number else draws
            given = None if noise is None else noise.narrow(axis, chunk.start, len(chunk))
            graph = recorded is None or chunk.stop > frames - recorded
            with torch.set_grad_enabled(enabled and graph):
                at = times(number, own)
                made = self.make(stream, chunk, chunk is chunks[-1], own, condition, at, dtype, given)
            yield made

    # ------------------------------------------------------------------ samples and rollouts

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        times, network = self.schedule(denoiser, steps), causal(denoiser)
        made = self.made(denoiser, draws, condition, network.frames, lambda n, _: self.times_of(n, times), dtype)
        return torch.cat([chunk.calls[-1].x0 for chunk in made], 1 + network.frame_axis)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The clip whose every chunk stops at a drawn call; its last frames, if ``length`` is more than a clip."""
        network, times = causal(denoiser), self.schedule(denoiser)
        axis, clip = 1 + network.frame_axis, network.frames
        length = max(self.length, clip)

        def until(number: int, own: Draws) -> Sequence[float]:
            every = self.times_of(number, times)
            source = draws if self.exits == "same" else own
            stops = self.stop == "random" and len(every) > 1
            return every[: source.shared_integer("step", len(every)) + 1] if stops else every

        recorded = min(self.gradient_frames or clip, clip)
        made = list(self.made(denoiser, draws, condition, length, until, dtype, noise, recorded))
        x0 = torch.cat([chunk.calls[-1].x0 for chunk in made], axis).narrow(axis, length - clip, clip)
        t = made[-1].calls[-1].t
        calls = self.joined(made, axis) if length == clip else ()
        return Rollout(x0, condition, t, made[-1].step, x0, torch.full_like(t, denoiser.process.t_clean), calls)

    def joined(self, made: Sequence[Chunk], axis: int) -> tuple[Prediction, ...]:
        """The calls of all chunks as calls of the clip; none if they did not stop together."""
        if len(made) == 1:
            return made[0].calls
        if len({tuple(float(call.t[0]) for call in chunk.calls) for chunk in made}) > 1:
            return ()
        together = zip(*(chunk.calls for chunk in made), strict=True)
        return tuple(
            Prediction(
                calls[0].process,
                torch.cat([call.x_t for call in calls], axis),
                calls[0].t,
                torch.cat([call.value for call in calls], axis),
                calls[0].kind,
            )
            for calls in together
        )

    def evaluations(self, steps: int | None = None) -> int:
        """Network calls per chunk of :meth:`sample`, with the one for its memory."""
        return super().evaluations(steps) + int(self.cache.refresh)
