"""ASD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastgen.distiller.extra import Extra
from fastgen.extras.video.self_pair import SelfPair
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.sampling.samplers import ChunkSampler, MixedChunkSampler


class ASD(SelfForcing):
    """Adversarial self-distillation towards one-step causal video (Yang et al. 2025, arXiv 2511.01419; no code).

    :class:`SelfForcing` whose rollouts have 1 to 4 calls per chunk, all of them, and pass for those of one call more
    (:class:`SelfPair`), so that one student serves every number. First-frame enhancement is the sampler's
    ``first_times``: four calls of the first chunk, one or two of the others. Without the pair it is Self Forcing with
    such rollouts.

    Args:
        sampler: How the student generates: samples have two calls per chunk.
        extras: Further loss terms; ``published`` is the paper's pair.
    """

    def __init__(
        self,
        sampler: ChunkSampler = MixedChunkSampler(
            steps=2, stop="last", numbers=(1, 2, 3, 4), shares=(1.0, 1.0, 1.0, 1.0)
        ),
        extras: Sequence[Extra] | Literal["published"] = "published",
        **kwargs: Any,
    ) -> None:
        super().__init__(sampler=sampler, extras=[SelfPair()] if isinstance(extras, str) else extras, **kwargs)
