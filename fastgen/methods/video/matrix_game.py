"""Matrix-Game 3.0."""

from __future__ import annotations

from typing import Any

from fastgen.denoisers.causal.caches import WindowCache
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.sampling.samplers import ChunkSampler


class MatrixGame(SelfForcing):
    """Matrix-Game 3.0's multi-segment self-generated distillation (arXiv 2604.08995; SkyworkAI/Matrix-Game).

    :class:`SelfForcing` whose chunks are segments: 10 latents that all see each other, four latents of the past and one
    early latent that stays; a bidirectional teacher judges. What a key press asks for is ``condition["drive"]``. Only
    inference code is public: the training is derived, and the five latents that the original finds by the overlap of
    camera views are here the pinned one alone.

    Args:
        sampler: How the student generates: four calls per segment, every segment stops where it likes.
    """

    def __init__(
        self,
        sampler: ChunkSampler = ChunkSampler(steps=4, chunk=10, cache=WindowCache(4, 1, "slot"), exits="each"),
        **kwargs: Any,
    ) -> None:
        super().__init__(sampler=sampler, **kwargs)
