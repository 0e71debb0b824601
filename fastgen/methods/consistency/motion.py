"""Representations of motion: what of a clip must be consistent, and what may be learned from pictures."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.configuration.components import Component


class Motion(nn.Module, ABC):
    """A representation of clips (B, C, F, H, W), of frames side by side (B, F, ...) or of points (B, F)."""

    @abstractmethod
    def forward(self, clips: Tensor) -> Tensor:
        """Of clips (B, ...), (B, ...)."""


class MotionForm(Component, ABC):
    """Which representation."""

    @abstractmethod
    def build(self, shape: Sequence[int]) -> Motion:
        """The network for samples of a shape."""


class _Raw(Motion):
    def forward(self, clips: Tensor) -> Tensor:
        return clips


class _Differences(Motion):
    def forward(self, clips: Tensor) -> Tensor:
        return clips.diff(dim=2 if clips.ndim == 5 else 1)


class _Head(Motion):
    """Each frame through some layers, whose last begins at zero, added to the frame."""

    def __init__(self, channels: int, layers: int, width: int, points: bool) -> None:
        super().__init__()
        wide = [channels, *[width] * (layers - 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(a, b) if points else nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(min(32, width), b), nn.SiLU()
            )
            for a, b in itertools.pairwise(wide)
        )
        self.last = nn.Linear(width, channels) if points else nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.movedim(2, 1).flatten(0, 1) if clips.ndim == 5 else clips
        x = nn.functional.silu(frames)
        for layer in self.layers:
            x = layer(x)
        found = frames + self.last(x)
        return found.unflatten(0, (len(clips), -1)).movedim(1, 2) if clips.ndim == 5 else found


@dataclass(frozen=True)
class WholeClip(MotionForm):
    """The clip itself: motion and appearance together."""

    def build(self, shape: Sequence[int]) -> Motion:
        return _Raw()


@dataclass(frozen=True)
class FrameDifferences(MotionForm):
    """Of each frame the change since the one before; appearance that stands still is no part of it."""

    def build(self, shape: Sequence[int]) -> Motion:
        return _Differences()


@dataclass(frozen=True)
class LearnedMotion(MotionForm):
    """A small head on every frame that learns with the student and begins as the identity.

    Args:
        layers: Number of layers, the last one included.
        width: Channels between them; a multiple of 32, or less.
    """

    layers: int = 3
    width: int = 64

    def __post_init__(self) -> None:
        checks.whole(self, 2, layers=self.layers)
        checks.whole(self, width=self.width)

    def build(self, shape: Sequence[int]) -> Motion:
        with torch.random.fork_rng(devices=[]):
            return _Head(shape[0], self.layers, self.width, points=len(shape) == 1)
