"""Streams: clips that are made chunk by chunk, each seeing what earlier ones left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.attending import Attending, Call, Memory
from fastgen.denoisers.causal.base import causal
from fastgen.denoisers.causal.caches import CachePolicy
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.processes import Prediction


@dataclass(frozen=True)
class Chunk:
    """A finished chunk of a stream.

    Attributes:
        frames: Which frames.
        calls: The calls that led there; the last one's x0 is the chunk.
        step: Index of the last call among the chunk's times.
    """

    frames: range
    calls: tuple[Prediction, ...]
    step: int


class ChunkView(Wrapper):
    """A network as it denoises one chunk of a stream; its calls see what the stream remembers.

    Args:
        network: The causal network, maybe an adapter on it.
        stream: The stream.
        indices: The frames of the chunk.
    """

    def __init__(self, network: Denoiser, stream: Stream, indices: Sequence[int]) -> None:
        super().__init__(network)
        self.__dict__["network"] = network  # not a submodule
        self.stream, self.indices = stream, tuple(indices)
        self.sample_shape = causal(network).chunk_shape(len(self.indices))
        self.left: list[Memory] = []

    @property
    def wrapped(self) -> Denoiser:
        return cast(Denoiser, self.network)

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition | None = None, s: Tensor | None = None
    ) -> Prediction:
        context = self.stream.remembered(len(self.left))
        kept, own = self.stream.policy.places(context, self.indices)
        call = Call(Attending(own, self.indices, context, kept))
        x_t = self.with_reference(x_t)
        with causal(self.wrapped).calling(call):
            prediction = self.wrapped(x_t, t, condition, s)
        if self.stream.reference is not None and self.indices[0] == 0:
            x0 = self.with_reference(prediction.x0)
            prediction = Prediction(prediction.process, x_t, t, x0, "x0")
        self.left.append(tuple(frame.detach() for frame in call.left) if self.stream.forgets_graphs else call.left)
        return prediction

    def with_reference(self, x: Tensor) -> Tensor:
        """Frames (B, ...) of the chunk with the given ones in the place of the first."""
        reference = self.stream.reference
        if reference is None or self.indices[0] > 0:
            return x
        axis = 1 + causal(self.wrapped).frame_axis
        count = reference.shape[axis]
        return torch.cat([reference.to(x.dtype), x.narrow(axis, count, x.shape[axis] - count)], axis)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self(x_t, t, condition, s).value


class Stream:
    """What a clip in the making remembers.

    Memories are values: a chunk that was made with one keeps it, whatever is written afterwards, so that a backward
    pass that computes a call once more sees what the call saw.

    Args:
        network: The causal network.
        policy: What is kept.
        context_noise: Time, of the network's process, at which finished chunks are called once more.
        forgets_graphs: Whether what is remembered is cut from its graph.
        reference: First frames (B, ...) that are given and not made, no more than the first chunk has.
    """

    def __init__(
        self,
        network: Denoiser,
        policy: CachePolicy,
        context_noise: float | None = None,
        forgets_graphs: bool = True,
        reference: Tensor | None = None,
    ) -> None:
        self.network = network
        self.policy = policy
        clean = network.process.t_clean
        self.context_noise = clean if context_noise is None else context_noise
        self.forgets_graphs = forgets_graphs
        self.reference = reference
        self.memories: dict[int, Memory] = {}
        self.made = 0

    def chunk(self, count: int) -> ChunkView:
        """The network as it denoises the next ``count`` frames."""
        return ChunkView(self.network, self, range(self.made, self.made + count))

    def remembered(self, number: int) -> Memory:
        """What the call ``number`` of a chunk sees of earlier chunks."""
        if self.policy.refresh:
            return self.memories.get(0, ())
        return self.memories.get(number, self.memories.get(number - 1, ()))  # a clean call comes after the last

    def clean_call(self, view: ChunkView, x0: Tensor, noise: Tensor | None, condition: Condition) -> Memory:
        """What the finished chunk ``x0`` leaves behind when it is called once more, with ``noise`` if it has some."""
        process = self.network.process
        t = torch.full((len(x0),), self.context_noise, dtype=torch.float64, device=x0.device)
        view(x0 if noise is None else process.add_noise(x0, noise, t), t, condition)
        return view.left.pop()

    def write(self, view: ChunkView, x0: Tensor, condition: Condition, noise: Tensor | None = None) -> None:
        """Remember the chunk ``x0`` that was made with ``view``; ``noise`` is for a context that is not clean."""
        policy, first = self.policy, view.indices[0]
        self.made = view.indices[-1] + 1
        if policy.refresh:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.forgets_graphs):
                written = self.clean_call(view, x0, noise, condition)
            self.memories[0] = policy.keep(self.remembered(0), written)
            return
        clean: Memory = ()
        if first < policy.sink:
            with torch.no_grad():
                clean = self.clean_call(view, x0, noise, condition)[: policy.sink - first]
        for number, left in enumerate(view.left):
            before = self.memories.get(number, ())
            self.memories[number] = policy.keep(before, clean + left[len(clean) :])
