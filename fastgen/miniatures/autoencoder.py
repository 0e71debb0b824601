"""Training of the small autoencoders whose latents the miniature teachers draw in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.miniatures.training import PartTraining
from fastgen.randomness import Draws

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def make_autoencoder(channels: tuple[int, ...], latent_channels: int, layers: int, groups: int) -> AutoencoderKL:
    """An ``AutoencoderKL`` with random weights and no attention; it halves once between two entries of ``channels``."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=groups,
        mid_block_add_attention=False,
    )


def edges(pictures: Tensor) -> list[Tensor]:
    """Differences of neighbours along the sides of pictures (B, C, H, W), and along time of clips (B, C, F, H, W)."""
    return [pictures.diff(dim=-axis) for axis in range(1, pictures.ndim - 1)]


def reconstruction_loss(result: Tensor, truth: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of :func:`edges`: scalar, of pictures or clips."""
    error = result - truth
    return error.abs().mean() + error.square().mean() + sum(edge.abs().mean() for edge in edges(error))


def psnr(squared_error: float) -> float:
    """Peak signal to noise ratio in dB of a mean squared error of pictures in [-1, 1]."""
    return 10 * math.log10(4 / squared_error)


class Reconstruction(PartTraining):
    """Trains an autoencoder of diffusers (Kingma & Welling 2013, arXiv 1312.6114) on the samples of a data module.

    The loss is that of :func:`reconstruction_loss` and a small divergence of the posterior from a standard normal law;
    no perceptual and no adversarial term, as pictures of 32 pixels need none.

    Args:
        network: The autoencoder.
        divergence: Weight of the divergence, which is the mean over the elements of the latents.
        learning_rate: Largest learning rate of AdamW.
        folder: Where the autoencoder is written at the end.
    """

    def __init__(self, network: Any, divergence: float, learning_rate: float, folder: str) -> None:
        checks.not_negative(self, divergence=divergence)
        super().__init__(learning_rate, folder)
        self.divergence = divergence
        self.network: Any = network

    def loss(self, batch: Mapping[str, Any], draws: Draws) -> dict[str, Tensor]:
        """Of one sample of the posterior for every picture."""
        x0 = batch["x0"]
        posterior = self.network.encode(x0).latent_dist
        latents = posterior.mean + posterior.std * draws.normal("latent", posterior.mean.shape[1:])
        reconstruction = reconstruction_loss(self.network.decode(latents).sample, x0)
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return {"reconstruction": reconstruction, "divergence": self.divergence * divergence}

    def measure(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The mean squared error of what is decoded from the posterior's mode, on 8-bit pictures."""
        x0 = batch["x0"]
        result = self.network.decode(self.network.encode(x0).latent_dist.mode()).sample.clamp(-1, 1)
        return {"squared_error": (result - x0).square().mean()}

    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        return {"psnr": psnr(means["squared_error"])}

    def parts(self) -> dict[str, Any]:
        return {"": self.network}


class AutoencoderTraining(Reconstruction):
    """Trains an ``AutoencoderKL`` of pictures.

    Args:
        channels: Widths of the blocks.
        latent_channels: Channels of the latents.
        layers: Residual layers per block.
        groups: Groups of every normalisation. Few keep what a flat background's colour is; many normalise it away.
        divergence: Weight of the divergence, which is the mean over the elements of the latents.
        learning_rate: Largest learning rate of AdamW.
        folder: Where the autoencoder is written at the end.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64),
        latent_channels: int = 8,
        layers: int = 1,
        groups: int = 4,
        divergence: float = 1e-4,
        learning_rate: float = 1.5e-3,
        folder: str = "<log_dir>/vae",
    ) -> None:
        checks.whole(self, channels=list(channels), latent_channels=latent_channels, layers=layers, groups=groups)
        network = make_autoencoder(tuple(channels), latent_channels, layers, groups)
        super().__init__(network, divergence, learning_rate, folder)

    @torch.no_grad()
    def finish(self, batch: Mapping[str, Any]) -> None:
        """Set the scale at which the latents of ``batch`` have a standard deviation of one over all channels."""
        latents = self.network.encode(batch["x0"]).latent_dist.mode()
        self.network.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
