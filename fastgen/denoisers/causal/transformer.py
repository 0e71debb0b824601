"""Small transformers for clips: of vectors, and of pictures."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.causal.attending import Attending, Layers
from fastgen.denoisers.causal.block_sparse import BlockSparsity
from fastgen.denoisers.causal.caches import CachePolicy, FullCache
from fastgen.denoisers.causal.driven import DrivenDenoiser
from fastgen.denoisers.networks.dit import grid_positions
from fastgen.denoisers.networks.embedding import TIME_FREQUENCIES, EmbeddingDenoiser
from fastgen.denoisers.networks.preconditioning import edm_preconditioning, time_features
from fastgen.errors import UserError
from fastgen.processes import Process

ROTARY_BASE = 100.0
"""Longest wavelength of positions, over 2 pi: clips here have tens of frames."""


def rotate(h: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864) of tokens (B, heads, L, width) by their frames' (F,)."""
    half = h.shape[-1] // 2
    powers = torch.arange(half, dtype=torch.float64, device=h.device) / half
    angles = positions.to(h.device)[:, None] * ROTARY_BASE**-powers
    angles = angles.repeat_interleave(h.shape[2] // len(positions), 0)
    cos, sin = angles.cos().to(h.dtype), angles.sin().to(h.dtype)
    a, b = h.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class ClipBlock(nn.Module):
    """Transformer block with adaLN-zero modulation (Peebles & Xie 2022, arXiv 2212.09748), frame by frame.

    Args:
        layer: Its number.
        width: Width of a token.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``width``.
    """

    def __init__(self, layer: int, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.query_scale = nn.Parameter(torch.ones(width // heads))
        self.key_scale = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, embedding: Tensor, seen: Attending) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, D) and the activated embedding (B, L, D) of each -> tokens, keys and values."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(embedding).chunk(6, dim=2)
        normed = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1.0 + scale_a) + shift_a
        q, k, v = self.qkv(normed).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.rms_norm(q, q.shape[-1:], eps=1e-6) * self.query_scale
        k = F.rms_norm(k, k.shape[-1:], eps=1e-6) * self.key_scale
        h = h + gate_a * self.out(seen.attention(self.layer, q, k, v, rotate).transpose(1, 2).flatten(2))
        normed = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1.0 + scale_m) + shift_m
        return h + gate_m * self.mlp(normed), k, v


class TokenTransformer(EmbeddingDenoiser, DrivenDenoiser):
    """What the transformers of vectors and of pictures share; subclasses turn frames into tokens and back.

    x0 = c_skip x_t + c_out F(c_in x_t, c_noise) with EDM's scalings, on any process, every frame at its own time.
    """

    blocks: nn.ModuleList
    sigma_data: float
    gradient_checkpointing: bool

    def build(self, tokens_in: int, depth: int, heads: int, mlp_ratio: int, drive: int) -> None:
        """The layers, for tokens of ``tokens_in`` numbers."""
        width = self.embedding_width
        self.drive = drive
        self.token_in = nn.Linear(tokens_in, width)
        self.drive_in = nn.Linear(drive, width) if drive else None
        self.blocks = nn.ModuleList(ClipBlock(i, width, heads, mlp_ratio) for i in range(depth))
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, tokens_in)
        for layer in (self.head_modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @abstractmethod
    def tokens(self, x: Tensor) -> Tensor:
        """Frames (B, ...) as tokens (B, F, tokens of a frame, numbers of a token)."""

    @abstractmethod
    def clips(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`tokens`."""

    @abstractmethod
    def places(self) -> Tensor:
        """What is added to the tokens of every frame, (tokens of a frame, width)."""

    @property
    def feature_path(self) -> str:
        return f"blocks.{len(self.blocks) // 2}"

    def embedding(self, times: Tensor, condition: Condition, seen: Attending, second: Tensor | None) -> Tensor:
        """The activated embedding (B, F, D) of every frame's time, of the labels and of what drives the motion."""
        size, count = times.shape
        rows = {n: v.repeat_interleave(count, 0) for n, v in condition.items() if n in ("label", "guidance")}
        flat = times.flatten()
        features = time_features(edm_preconditioning(self.process, flat, self.sigma_data).c_noise, TIME_FREQUENCIES)
        embedding = self.embed(features, flat, flat, rows, None if second is None else second.flatten())
        embedding = embedding.unflatten(0, (size, count))
        if self.drive_in is not None and "drive" in condition:
            drive = condition["drive"].to(self.dtype)
            place = torch.tensor(seen.indices, device=drive.device).clamp(max=drive.shape[1] - 1)
            embedding = embedding + self.drive_in(drive[:, place])
        return embedding

    def denoise_frames(
        self, x: Tensor, times: Tensor, condition: Condition, seen: Attending, second: Tensor | None
    ) -> tuple[Tensor, Layers]:
        scalings = edm_preconditioning(self.process, self.per_frame(times), self.sigma_data)
        frames = self.tokens(scalings.network_input(x).to(self.dtype))
        count = frames.shape[2]
        h = (self.token_in(frames) + self.places()).flatten(1, 2)
        embedding = self.embedding(times, condition, seen, second).repeat_interleave(count, 1)
        left = []
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                h, k, v = cast(Any, checkpoint(block, h, embedding, seen, use_reentrant=False))
            else:
                h, k, v = block(h, embedding, seen)
            left.append((k, v))
        shift, scale = self.head_modulation(embedding).chunk(2, dim=2)
        out = self.head(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1.0 + scale) + shift)
        return scalings.x0(x, self.clips(out.unflatten(1, (-1, count)))), left


class ClipTransformer(TokenTransformer):
    """Transformer for clips of vectors (F, D), a token for each frame; (F,) if they are numbers.

    Args:
        process: How data becomes noise.
        frames: Frames of a clip.
        features: Numbers of a frame; 0 for clips (F,) of one number each.
        width: Width of a token, divisible by twice ``heads``.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``width``.
        num_classes: Number of classes; 0 means unconditional.
        drive: Numbers per frame of ``condition["drive"]`` (B, F, K), which drives the motion; 0 for none.
        chunk: Frames of a chunk, which see no later chunk; 0 for a bidirectional network.
        first_chunk: Frames of the first chunk; 0 for as many.
        attends: Which earlier frames a chunk sees when whole clips are denoised.
        sigma_data: Standard deviation of the data, per number.
        second_time: Whether the network has the second time input of flow maps.
        sparsity: Which blocks of tokens are seen when whole clips are denoised; ``None`` for all.
        gradient_checkpointing: Compute blocks again in the backward pass instead of keeping what they computed.
        weights: safetensors file, or ``None`` for random weights.

    Raises:
        UserError: If the width does not divide.
    """

    def __init__(
        self,
        process: Process,
        frames: int = 12,
        features: int = 2,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        mlp_ratio: int = 2,
        num_classes: int = 0,
        drive: int = 0,
        chunk: int = 0,
        first_chunk: int = 0,
        attends: CachePolicy = FullCache(),
        sigma_data: float = 1.0,
        second_time: bool = False,
        sparsity: BlockSparsity | None = None,
        gradient_checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        checks.whole(self, frames=frames, width=width, heads=heads, mlp_ratio=mlp_ratio)
        checks.whole(self, 0, features=features, depth=depth, num_classes=num_classes, drive=drive)
        checks.whole(self, 0, chunk=chunk, first_chunk=first_chunk)
        checks.positive(self, sigma_data=sigma_data)
        if width % (2 * heads):
            raise UserError(f"{type(self).__name__}: width {width} is not divisible by twice the heads {heads}.")
        shape = (frames, features) if features else (frames,)
        super().__init__(process, "x0", shape, width, num_classes, second_time, weights)
        self.chunk, self.first_chunk, self.attends, self.sparsity = chunk, first_chunk, attends, sparsity
        self.sigma_data, self.gradient_checkpointing = sigma_data, gradient_checkpointing
        self.build(max(features, 1), depth, heads, mlp_ratio, drive)

    def tokens(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], 1, -1)

    def clips(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], *self.sample_shape[1:])

    def places(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.token_in.weight.device)


class ClipDiT(TokenTransformer):
    """Transformer for clips of small square pictures (C, F, R, R), a token for each patch of a frame.

    Args:
        process: How data becomes noise.
        frames: Frames of a clip.
        channels: Channels of a picture.
        resolution: Height and width of a picture.
        patch: Height and width of the pixels that make one token.
        width: Width of a token, divisible by 4 and by twice ``heads``.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``width``.
        num_classes: Number of classes; 0 means unconditional.
        drive: As in :class:`ClipTransformer`.
        chunk: As there.
        first_chunk: As there.
        attends: As there.
        sigma_data: Standard deviation of the data, per pixel.
        second_time: Whether the network has the second time input of flow maps.
        sparsity: As there.
        gradient_checkpointing: As in :class:`ClipTransformer`.
        weights: safetensors file, or ``None`` for random weights.

    Raises:
        UserError: If a size does not divide.
    """

    frame_axis = 1
    positions: Tensor

    def __init__(
        self,
        process: Process,
        frames: int = 9,
        channels: int = 3,
        resolution: int = 16,
        patch: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 2,
        num_classes: int = 0,
        drive: int = 0,
        chunk: int = 0,
        first_chunk: int = 0,
        attends: CachePolicy = FullCache(),
        sigma_data: float = 0.5,
        second_time: bool = False,
        sparsity: BlockSparsity | None = None,
        gradient_checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        sizes = {"frames": frames, "channels": channels, "resolution": resolution, "patch": patch, "width": width}
        checks.whole(self, heads=heads, mlp_ratio=mlp_ratio, **sizes)
        checks.whole(self, 0, depth=depth, num_classes=num_classes, drive=drive)
        checks.whole(self, 0, chunk=chunk, first_chunk=first_chunk)
        checks.positive(self, sigma_data=sigma_data)
        if resolution % patch:
            raise UserError(f"ClipDiT: resolution {resolution} is not divisible by patch {patch}; take another patch.")
        if width % (2 * heads) or width % 4:
            raise UserError(f"ClipDiT: width {width} is not divisible by 4 and by twice the heads {heads}.")
        shape = (channels, frames, resolution, resolution)
        super().__init__(process, "x0", shape, width, num_classes, second_time, weights)
        self.chunk, self.first_chunk, self.attends, self.sparsity = chunk, first_chunk, attends, sparsity
        self.sigma_data, self.gradient_checkpointing = sigma_data, gradient_checkpointing
        self.patch = patch
        self.register_buffer("positions", grid_positions(width, resolution // patch))
        self.build(channels * patch**2, depth, heads, mlp_ratio, drive)

    def tokens(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x.transpose(1, 2), self.patch).flatten(3).mT

    def clips(self, tokens: Tensor) -> Tensor:
        rows = self.sample_shape[-1] // self.patch
        return F.pixel_shuffle(tokens.mT.unflatten(3, (rows, rows)), self.patch).transpose(1, 2)

    def places(self) -> Tensor:
        return self.positions
