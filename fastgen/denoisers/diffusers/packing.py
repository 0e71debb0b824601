"""Latents as tokens: FLUX.1 and Qwen-Image read 2 x 2 patches of the latent map as one token each."""

from __future__ import annotations

from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, H, W) to tokens (B, H/2 W/2, 4 C); within a token the channel comes first, then row, column."""
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, height/2 width/2, 4 C) to latents (B, C, height, width)."""
    b, _, c = tokens.shape
    patches = tokens.reshape(b, height // 2, width // 2, c // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)
