"""BlockCache: the blocks of a transformer are left out where little changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.solvers.euler import Euler


@dataclass(frozen=True)
class BlockCache(Euler):
    """Euler steps of a transformer whose blocks are left out while its first block changes little.

    It is diffusers' ``FirstBlockCache``, switched on for the time of a sampling. The decision is one for a whole batch:
    here alone, a sample depends on those that it is made with.

    Args:
        steps: Number of steps from ``t_max`` to data.
        guidance: Classifier-free guidance scale; 1 means none.
        threshold: Relative change of the first block's residual up to which the others are left out.
    """

    steps: int = 50
    threshold: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_negative(self, threshold=self.threshold)

    def path(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Sequence[Tensor],
        condition: Condition,
        draws: Draws | None = None,
    ) -> Iterator[Tensor]:
        from diffusers.hooks import FirstBlockCacheConfig

        network = cast(Any, getattr(denoiser.backbone, "network", None))
        if not hasattr(network, "enable_cache"):
            raise UserError(
                f"{type(denoiser.backbone).__name__} has no block cache of diffusers; take FasterDiffusion for a "
                "U-Net, or Euler."
            )
        network.enable_cache(FirstBlockCacheConfig(threshold=self.threshold))
        try:
            with network.cache_context("fastgen"):
                for t, s in pairwise(times):
                    x = self.step(denoiser, x, t, s, condition)
                    yield x
        finally:
            network.disable_cache()
