"""A small class-conditional diffusion transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.networks.embedding import TIME_FREQUENCIES, EmbeddingDenoiser
from fastgen.denoisers.networks.preconditioning import noise_angle, time_features
from fastgen.errors import UserError
from fastgen.processes import PredictionKind, Process, RectifiedFlow
from fastgen.processes.prediction import at_least_float32


def grid_positions(width: int, rows: int) -> Tensor:
    """Sines and cosines of the row and of the column of each cell of a square grid, shape (rows^2, width)."""
    frequencies = 1e4 ** -torch.linspace(0.0, 1.0, width // 4)
    angles = torch.arange(rows)[:, None] * frequencies
    one_axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([one_axis.repeat_interleave(rows, 0), one_axis.repeat(rows, 1)], dim=1)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of tokens ``h`` (B, L, D), then ``(1 + scale) h + shift``, both (B, D)."""
    return torch.addcmul(shift[:, None], F.layer_norm(h, h.shape[-1:], eps=1e-6), 1.0 + scale[:, None])


class Attention(nn.Module):
    """Self-attention over tokens (B, L, D) with RMS-normalised queries and keys (Esser et al. 2024, 2403.03206)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_scale = nn.Parameter(torch.ones(width // heads))
        self.key_scale = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.rms_norm(q, q.shape[-1:], eps=1e-6) * self.query_scale
        k = F.rms_norm(k, k.shape[-1:], eps=1e-6) * self.key_scale
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Transformer block with adaLN-zero modulation (Peebles & Xie 2022, arXiv 2212.09748, figure 3)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Tokens (B, L, D) and activated embedding (B, D) -> (B, L, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(embedding).chunk(6, dim=1)
        h = h + gate_a[:, None] * self.attention(modulate(h, shift_a, scale_a))
        return h + gate_m[:, None] * self.mlp(modulate(h, shift_m, scale_m))


class DiT(EmbeddingDenoiser):
    """Small class-conditional diffusion transformer on square images.

    It sees ``x_t`` unscaled, so use a process whose ``x_t`` stays of order one (rectified flow, TrigFlow, VP). Its
    time is the noise angle ``atan(sigma / alpha)``.

    Args:
        process: How data becomes noise.
        prediction: What the network predicts.
        channels: Channels of an image.
        resolution: Height and width of an image.
        patch: Height and width of the pixels that make one token.
        width: Width of a token, divisible by 4 and by ``heads``.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``width``.
        num_classes: Number of classes; 0 means unconditional.
        second_time: Whether the network has the second time input of flow maps.
        weights: safetensors file, or ``None`` for random weights.

    Raises:
        UserError: If a size does not divide.
    """

    def __init__(
        self,
        process: Process = RectifiedFlow(),
        prediction: PredictionKind = "velocity",
        channels: int = 1,
        resolution: int = 8,
        patch: int = 2,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 4,
        num_classes: int = 0,
        second_time: bool = False,
        weights: str | None = None,
    ) -> None:
        checks.whole(
            self,
            channels=channels,
            resolution=resolution,
            patch=patch,
            width=width,
            heads=heads,
            mlp_ratio=mlp_ratio,
        )
        checks.whole(self, 0, depth=depth, num_classes=num_classes)
        if resolution % patch:
            raise UserError(f"DiT: resolution {resolution} is not divisible by patch {patch}; choose another patch.")
        if width % 4 or width % heads:
            raise UserError(f"DiT: width {width} is not divisible by 4 and by heads {heads}; choose another width.")
        super().__init__(
            process,
            prediction,
            (channels, resolution, resolution),
            width,
            num_classes,
            second_time,
            weights,
        )
        self.patch = patch
        self.patch_in = nn.Conv2d(channels, width, patch, stride=patch)
        # Part of the state dict, so that a model filled after it was placed gets it from its file.
        self.register_buffer("positions", grid_positions(width, resolution // patch))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * patch**2)
        for layer in (self.head_modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def feature_path(self) -> str:
        return f"blocks.{len(self.blocks) // 2}"

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        features = time_features(noise_angle(self.process, t), TIME_FREQUENCIES)
        embedding = self.embed(features, x_t, t, condition, s)
        h = self.patch_in(x_t.to(self.dtype)).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, embedding)
        shift, scale = self.head_modulation(embedding).chunk(2, dim=1)
        tokens = self.head(modulate(h, shift, scale))
        rows = x_t.shape[-1] // self.patch
        pixels = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, rows)), self.patch)
        return at_least_float32(pixels)
