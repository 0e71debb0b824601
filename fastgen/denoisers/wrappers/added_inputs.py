"""Inputs that a pretrained network lacks, as adapters: they are added to the embedding of its time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.denoisers.networks.preconditioning import noise_angle, time_features
from fastgen.denoisers.wrappers.exact_linear import ExactLinear, outside_autocast
from fastgen.processes import Process

if TYPE_CHECKING:
    from fastgen.denoisers.base import Denoiser


class AddedInput(nn.Module):
    """A layer with SiLU and an output layer that starts at zero, so that the network keeps its function.

    Zero initialisation as in Zhang et al. 2023, arXiv 2302.05543.

    Args:
        inputs: Number of values that it sees.
        width: Width of the embedding it is added to.
        frequencies: Number of frequencies of each value, as sines and cosines.
    """

    def __init__(self, inputs: int, width: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = ExactLinear(2 * inputs * frequencies, width)
        self.out = ExactLinear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to the state that does not change the network."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def embed(self, *values: Tensor) -> Tensor:
        """Embedding (B, width) of values of order one, each (B,); fp32 or higher, also under autocast."""
        features = torch.cat([time_features(value, self.frequencies) for value in values], dim=1)
        dtype = torch.promote_types(self.hidden.weight.dtype, torch.float32)
        with outside_autocast(features):
            return self.out(F.silu(self.hidden(features.to(dtype))))


def guidance_features(scale: Tensor, width: int) -> Tensor:
    """Sinusoids (B, width) of ``1000 (scale - 1)`` for guidance scales (B,), fp32.

    What U-Nets with ``time_cond_proj_dim`` are told (LCM, Luo et al. 2023, arXiv 2310.04378; diffusers'
    ``get_guidance_scale_embedding`` of ``guidance_scale - 1``).
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=scale.device) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (scale.float() - 1.0)[:, None] * rates
    return F.pad(torch.cat([torch.sin(angles), torch.cos(angles)], dim=1), (0, width % 2))


class SecondTime(AddedInput):
    """Where a jump from ``t`` ends, for flow maps: ``s`` and the distance ``t - s``, both as noise angles.

    Args:
        width: Width of the embedding it is added to.
        frequencies: Number of frequencies of each of the two.
    """

    def __init__(self, width: int, frequencies: int = 8) -> None:
        super().__init__(2, width, frequencies)

    def forward(self, process: Process, t: Tensor, s: Tensor) -> Tensor:
        """Embedding (B, width) of the jump from ``t`` (B,) to ``s`` (B,)."""
        start, end = noise_angle(process, t), noise_angle(process, s)
        return self.embed(end, start - end)

    def into(self, embedding: Tensor, network: Denoiser, t: Tensor, s: Tensor) -> Tensor:
        """The embedding (B, width) of both times, from that of ``t`` (B,) and ``s`` (B,)."""
        return embedding + self(network.process, t, s).to(embedding.dtype)


class GuidanceInput(AddedInput):
    """The guidance scale, for students that were distilled at many (Meng et al. 2022, arXiv 2210.03142).

    It sees ``log(scale)``; the scale 1 means no guidance. For networks that have no such input in diffusers: U-Nets of
    Stable Diffusion get :func:`guidance_features` at their ``cond_proj``, FLUX.1-dev has one.

    Args:
        width: Width of the embedding it is added to.
        frequencies: Number of frequencies.
    """

    def __init__(self, width: int, frequencies: int = 8) -> None:
        super().__init__(1, width, frequencies)

    def forward(self, scale: Tensor) -> Tensor:
        """Embedding (B, width) of guidance scales (B,)."""
        return self.embed(torch.log(scale.clamp(min=1e-3)))
