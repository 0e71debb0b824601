"""Salt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastgen.distiller.extra import Extra
from fastgen.extras.video.semigroup_defect import SemigroupDefect
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.sampling.samplers import ChunkSampler, MixedChunkSampler


class Salt(SelfForcing):
    """Salt's SC-DMD (Ge et al. 2026, arXiv 2604.03118; github.com/XingtongGe/Salt).

    :class:`SelfForcing` with rollouts of 8, 4 or 2 calls per chunk (:class:`MixedChunkSampler`) and, in those of 8, the
    :class:`SemigroupDefect` of the last call, so that the student may be sampled with fewer. Without either it is Self
    Forcing; the defect without mixed rollouts made the paper's results worse. It can stand beside any other method.

    Not here: the alignment of token relations with a reference rollout that has memories of its own (weight 0.1).

    Args:
        sampler: How the student generates.
        extras: Further loss terms; ``published`` is the paper's defect, of weight 0.2.
    """

    def __init__(
        self,
        sampler: ChunkSampler = MixedChunkSampler(),
        extras: Sequence[Extra] | Literal["published"] = "published",
        **kwargs: Any,
    ) -> None:
        super().__init__(sampler=sampler, extras=[SemigroupDefect()] if isinstance(extras, str) else extras, **kwargs)
