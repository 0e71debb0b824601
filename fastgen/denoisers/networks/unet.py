"""A small class-conditional U-Net with EDM preconditioning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.networks.dropout import Dropout
from fastgen.denoisers.networks.embedding import TIME_FREQUENCIES, EmbeddingDenoiser
from fastgen.denoisers.networks.preconditioning import edm_preconditioning, time_features
from fastgen.errors import UserError
from fastgen.processes import Process

HEAD_WIDTH = 32
GROUP_WIDTH = 8


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group norm with groups of 8 channels, or of all channels if 8 does not divide them."""
    return nn.GroupNorm(channels // GROUP_WIDTH if channels % GROUP_WIDTH == 0 else 1, channels, affine=affine)


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all parameters set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class SelfAttention(nn.Module):
    """Residual self-attention over the pixels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, channels // HEAD_WIDTH), 0, -1) if channels % n == 0)
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        batch, channels, height, width = h.shape
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)


class ResidualBlock(nn.Module):
    """Two convolutions with adaptive group norm (Dhariwal & Nichol 2021, arXiv 2105.05233), then maybe attention."""

    def __init__(self, in_channels: int, channels: int, embedding: int, attention: bool, dropout: float) -> None:
        super().__init__()
        self.norm_in = group_norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm_out = group_norm(channels, affine=False)
        self.dropout = Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv_out = zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        self.attention = SelfAttention(channels) if attention else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``h`` (B, in_channels, H, W), activated ``embedding`` (B, E) -> (B, channels, H, W)."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        residual = self.conv_in(F.silu(self.norm_in(h)))
        residual = F.silu(torch.addcmul(shift, self.norm_out(residual), 1.0 + scale))
        return self.attention(self.skip(h) + self.conv_out(self.dropout(residual)))


class UNet(EmbeddingDenoiser):
    """Small class-conditional U-Net; x0 = c_skip x_t + c_out F(c_in x_t, c_noise) on any process.

    The defaults are for 8x8 digits. Levels are joined by average pooling and nearest-neighbour upsampling.

    Args:
        process: How data becomes noise.
        channels: Channels of an image.
        resolution: Height and width of an image, divisible by 2 to the number of levels minus one.
        width: Channels of the first level, a multiple of 8.
        multipliers: Channels of each level as multiples of ``width``; each level halves the resolution.
        blocks: Residual blocks per level, down and up.
        attention_resolutions: Resolutions whose blocks attend; the middle block always does.
        num_classes: Number of classes; 0 means unconditional.
        sigma_data: Standard deviation of the data.
        dropout: Dropout probability inside residual blocks.
        second_time: Whether the network has the second time input of flow maps.
        weights: safetensors file, or ``None`` for random weights.

    Raises:
        UserError: If the resolution cannot be halved that often.
    """

    def __init__(
        self,
        process: Process,
        channels: int = 1,
        resolution: int = 8,
        width: int = 16,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention_resolutions: Sequence[int] = (),
        num_classes: int = 0,
        sigma_data: float = 0.5,
        dropout: float = 0.0,
        second_time: bool = False,
        weights: str | None = None,
    ) -> None:
        checks.whole(
            self, channels=channels, resolution=resolution, width=width, multipliers=multipliers, blocks=blocks
        )
        checks.whole(self, attention_resolutions=attention_resolutions)
        checks.not_empty(self, multipliers=multipliers)
        checks.whole(self, 0, num_classes=num_classes)
        checks.positive(self, sigma_data=sigma_data)
        checks.between(self, 0.0, 1.0, "[)", dropout=dropout)
        factor = 2 ** (len(multipliers) - 1)
        if resolution % factor:
            raise UserError(
                f"UNet: resolution {resolution} is not divisible by {factor}; use at most as many multipliers as it "
                "can be halved, plus one."
            )
        embedding = 4 * width
        super().__init__(
            process, "x0", (channels, resolution, resolution), embedding, num_classes, second_time, weights
        )
        self.sigma_data = sigma_data

        def block(in_channels: int, out_channels: int, size: int) -> ResidualBlock:
            return ResidualBlock(in_channels, out_channels, embedding, size in attention_resolutions, dropout)

        widths = [width * m for m in multipliers]
        sizes = [resolution // 2**level for level in range(len(widths))]
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        current = width
        for out, size in zip(widths, sizes, strict=True):
            self.down.append(nn.ModuleList(block(current if i == 0 else out, out, size) for i in range(blocks)))
            current = out
        self.mid = ResidualBlock(current, current, embedding, True, dropout)
        self.up = nn.ModuleList()
        for out, size in zip(reversed(widths), reversed(sizes), strict=True):
            self.up.append(nn.ModuleList(block((current if i == 0 else out) + out, out, size) for i in range(blocks)))
            current = out
        self.head_norm = group_norm(current)
        self.head = zeroed(nn.Conv2d(current, channels, 3, padding=1))

    @property
    def feature_path(self) -> str:
        return "mid"

    def encoder_parts(self) -> list[nn.Module]:
        return [self.stem, *(block for level in self.down for block in level.children()), self.mid]

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        scalings = edm_preconditioning(self.process, t, self.sigma_data)
        embedding = self.embed(time_features(scalings.c_noise, TIME_FREQUENCIES), x_t, t, condition, s)
        h = self.stem(scalings.network_input(x_t).to(self.dtype))
        # A fifth faster on CPUs; the weights stay contiguous, as sharding needs them.
        h = h.contiguous(memory_format=torch.channels_last)
        skips = []
        for level, blocks in enumerate(self.down):
            if level > 0:
                h = F.avg_pool2d(h, 2)
            for block in blocks.children():
                h = block(h, embedding)
                skips.append(h)
        h = self.mid(h, embedding)
        for level, blocks in enumerate(self.up):
            if level > 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            for block in blocks.children():
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return scalings.x0(x_t, self.head(F.silu(self.head_norm(h))))
