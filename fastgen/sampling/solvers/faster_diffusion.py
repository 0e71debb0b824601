"""FasterDiffusion: the encoder of a U-Net runs at key steps only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.randomness import Draws
from fastgen.sampling.solvers.euler import Euler

KEYS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
"""The paper's key steps of 50."""


class EncoderCache:
    """What the encoder of a U-Net gave at the last key step, to be given again.

    Args:
        network: The U-Net.
    """

    def __init__(self, network: Denoiser) -> None:
        self.modules: list[nn.Module] = network.backbone.encoder_parts()
        self.outputs: dict[nn.Module, Any] = {}

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside, the encoder runs and what it gives is kept."""
        handles = [module.register_forward_hook(self.keep) for module in self.modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def keep(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        """Note what a part of the encoder gave."""
        self.outputs[module] = output

    @contextmanager
    def given_again(self) -> Iterator[None]:
        """Inside, no part of the encoder runs."""

        def again(module: nn.Module) -> Any:
            return lambda *args, **kwargs: self.outputs[module]

        for module in self.modules:
            module.forward = again(module)
        try:
            yield
        finally:
            for module in self.modules:
                del module.forward  # the class's own is there again


@dataclass(frozen=True)
class FasterDiffusion(Euler):
    """Euler steps of a U-Net whose encoder runs at key steps only (Li et al. 2023, arXiv 2312.09608; github.com/
    hutaiHang/Faster-Diffusion).

    Between key steps the decoder runs on the encoder's features of the last key step, middle block included. Below half
    of the levels a little of the first noise is added before every call, ``x_t + 0.003 x_T``, so that details stay.
    Calls are counted whole, though most of them are decoders alone. Transformers have no such encoder: see
    ``BlockCache``. Differs: steps between keys run one after the other, not in one batch.

    No diffusers scheduler can express it; it is a way to sample, in ``solver``.

    Args:
        steps: Number of steps from ``t_max`` to data.
        guidance: Classifier-free guidance scale; 1 means none.
        key_steps: At which the encoder runs, from 0; those of the paper for 50 steps. The first is one anyway.
        noise_share: Of the first noise that is added.
    """

    steps: int = 50
    key_steps: Sequence[int] = KEYS
    noise_share: float = 0.003

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, 0, key_steps=self.key_steps)
        checks.fraction(self, noise_share=self.noise_share)

    def path(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Sequence[Tensor],
        condition: Condition,
        draws: Draws | None = None,
    ) -> Iterator[Tensor]:
        first, cache, process = x, EncoderCache(denoiser), denoiser.process
        for number, (t, s) in enumerate(pairwise(times)):
            if float(process.fraction(t)[0]) < 0.5:
                x = x + self.noise_share * first
            with cache.keeping() if number == 0 or number in self.key_steps else cache.given_again():
                x = self.step(denoiser, x, t, s, condition)
            yield x
