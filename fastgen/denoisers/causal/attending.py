"""What the frames of one call of a causal network see: earlier frames that left keys and values, and each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys, not rotated, and values of each attention layer, (B, heads, tokens, width)."""


@dataclass(frozen=True)
class Frame:
    """What a frame left behind.

    Attributes:
        index: Its place in the clip; the mean of several for frames that were merged.
        layers: Keys before the rotation by position, and values, of each layer: (B, heads, tokens of the frame, width).
        count: How many frames it stands for.
    """

    index: float
    layers: tuple[tuple[Tensor, Tensor], ...]
    count: int = 1

    def detach(self) -> Frame:
        """The same without its graph."""
        return Frame(self.index, tuple((k.detach(), v.detach()) for k, v in self.layers), self.count)


Memory = tuple[Frame, ...]
"""Frames in the order in which they are attended to. A value: writing makes a new one, so that what a backward pass
computes once more sees what the forward pass saw."""


def mixed(weights: Sequence[float], frames: Sequence[Frame], index: float, count: int = 1) -> Frame:
    """A weighted sum of frames, layer by layer, at the place ``index``; it stands for ``count`` frames."""
    layers = tuple(
        (
            sum((w * k for w, (k, _) in zip(weights, parts, strict=True)), torch.zeros_like(parts[0][0])),
            sum((w * v for w, (_, v) in zip(weights, parts, strict=True)), torch.zeros_like(parts[0][1])),
        )
        for parts in zip(*(frame.layers for frame in frames), strict=True)
    )
    return Frame(index, layers, count)


def frames_of(layers: Layers, indices: Sequence[int]) -> Memory:
    """The frames ``indices`` of what a call left in its layers, whose tokens come frame by frame."""
    count = len(indices)
    cut = [list(zip(k.chunk(count, dim=2), v.chunk(count, dim=2), strict=True)) for k, v in layers]
    return tuple(Frame(float(index), tuple(layer[i] for layer in cut)) for i, index in enumerate(indices))


class Sparsity(Protocol):
    """Which keys queries see."""

    def mask(self, q: Tensor, k: Tensor) -> Tensor:
        """Which keys (columns) each query (rows) sees, (B, heads, L, L')."""


@dataclass(frozen=True)
class Attending:
    """What the frames of a call see.

    Attributes:
        own: Positions of the call's frames, (F,), fp64.
        indices: Their places in the clip.
        context: Earlier frames, which all of them see.
        kept: Positions of those, (M,).
        mask: Which of the call's frames (columns) each of them (rows) sees, (F, F); ``None`` for all.
        sparsity: Says which keys each query sees among those, by queries and keys; ``None`` for all.
    """

    own: Tensor
    indices: tuple[int, ...]
    context: Memory = ()
    kept: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    mask: Tensor | None = None
    sparsity: Sparsity | None = None

    def attention(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, rotate: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Attention of the call's tokens, (B, heads, L, width), to what they see.

        Args:
            layer: Number of the layer.
            q: Queries, before rotation; tokens come frame by frame.
            k: Keys, before rotation.
            v: Values.
            rotate: Turns tokens (B, heads, L, width) by the positions (F,) of their frames.
        """
        tokens = q.shape[2] // len(self.own)
        positions = self.own
        if self.context:
            # Guided calls ask about every sample twice, with and without its condition.
            times = len(q) // len(self.context[0].layers[layer][0])
            k = torch.cat([*(frame.layers[layer][0].repeat(times, 1, 1, 1) for frame in self.context), k], dim=2)
            v = torch.cat([*(frame.layers[layer][1].repeat(times, 1, 1, 1) for frame in self.context), v], dim=2)
            positions = torch.cat([self.kept, self.own])
        q, k, mask = rotate(q, self.own), rotate(k, positions), self.token_mask(tokens)
        if self.sparsity is not None:
            near = self.sparsity.mask(q, k)
            mask = near if mask is None else near & mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def token_mask(self, tokens: int) -> Tensor | None:
        """The mask (L, L') of tokens, ``tokens`` to a frame; ``None`` if every one sees every one."""
        if self.mask is None:
            return None
        seen = torch.cat([self.mask.new_ones(len(self.own), len(self.kept)), self.mask], dim=1)
        return seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


@dataclass
class Call:
    """One call within a stream: what it sees, and afterwards what it left behind."""

    seen: Attending
    left: Memory = ()
