"""Training of the small autoencoder of clips in whose latents the miniature Wan draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from fastgen import checks
from fastgen.errors import UserError
from fastgen.miniatures.autoencoder import Reconstruction

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


def make_clip_autoencoder(
    width: int, multiples: tuple[int, ...], slower: tuple[bool, ...], latent_channels: int, layers: int
) -> AutoencoderKLWan:
    """An ``AutoencoderKLWan`` with random weights; ``slower`` says where time is halved beside the sides."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=width,
        z_dim=latent_channels,
        dim_mult=list(multiples),
        num_res_blocks=layers,
        temperal_downsample=list(slower),
        latents_mean=[0.0] * latent_channels,
        latents_std=[1.0] * latent_channels,
        scale_factor_temporal=2 ** sum(slower),
        scale_factor_spatial=2 ** len(slower),
    )


class ClipAutoencoderTraining(Reconstruction):
    """Trains an ``AutoencoderKLWan`` (Wan team 2025, arXiv 2503.20314), whose frames see no later ones, on clips.

    The released one has widths of 96 to 384 and halves the sides three times; its format does not forbid a small one.

    Args:
        width: Channels of the first block.
        multiples: Width of every block in units of the first.
        slower: After which blocks time is halved; the sides are after all but the last block.
        latent_channels: Channels of the latents.
        layers: Residual layers per block.
        divergence: Weight of the divergence, which is the mean over the elements of the latents.
        learning_rate: Largest learning rate of AdamW.
        folder: Where the autoencoder is written at the end.
    """

    def __init__(
        self,
        width: int = 16,
        multiples: tuple[int, ...] = (1, 2, 4),
        slower: tuple[bool, ...] = (True, True),
        latent_channels: int = 16,
        layers: int = 1,
        divergence: float = 1e-4,
        learning_rate: float = 1.5e-3,
        folder: str = "<log_dir>/vae",
    ) -> None:
        checks.whole(self, width=width, multiples=list(multiples), latent_channels=latent_channels, layers=layers)
        if len(slower) != len(multiples) - 1:
            raise UserError(
                f"{type(self).__name__} halves between its {len(multiples)} blocks: slower has {len(multiples) - 1} "
                f"entries, got {len(slower)}."
            )
        network = make_clip_autoencoder(width, tuple(multiples), tuple(slower), latent_channels, layers)
        super().__init__(network, divergence, learning_rate, folder)

    @torch.no_grad()
    def finish(self, batch: Mapping[str, Any]) -> None:
        """Set mean and standard deviation of every channel of the latents of ``batch``."""
        latents = self.network.encode(batch["x0"]).latent_dist.mode().transpose(0, 1).flatten(1)
        mean, std = ([round(value, 4) for value in v.tolist()] for v in (latents.mean(1), latents.std(1)))
        self.network.register_to_config(latents_mean=mean, latents_std=std)
