"""A residual MLP for points, with EDM preconditioning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.networks.embedding import TIME_FREQUENCIES, EmbeddingDenoiser
from fastgen.denoisers.networks.preconditioning import edm_preconditioning, time_features
from fastgen.processes import Process


class Block(nn.Module):
    """Residual two-layer perceptron whose hidden layer is scaled and shifted by the embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``h`` (B, width), activated ``embedding`` (B, width) -> (B, width)."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        return h + self.out(F.silu(torch.addcmul(shift, self.hidden(F.silu(h)), 1.0 + scale)))


class MLP(EmbeddingDenoiser):
    """Residual MLP for points (B, D); x0 = c_skip x_t + c_out F(c_in x_t, c_noise) on any process.

    Args:
        process: How data becomes noise.
        dimension: D, the number of coordinates of a point.
        width: Width of all layers.
        depth: Number of residual blocks.
        num_classes: Number of classes; 0 means unconditional.
        sigma_data: Standard deviation of the data, per coordinate.
        second_time: Whether the network has the second time input of flow maps.
        weights: safetensors file, or ``None`` for random weights.
    """

    def __init__(
        self,
        process: Process,
        dimension: int = 2,
        width: int = 64,
        depth: int = 3,
        num_classes: int = 0,
        sigma_data: float = 0.9,
        second_time: bool = False,
        weights: str | None = None,
    ) -> None:
        checks.whole(self, dimension=dimension, width=width)
        checks.whole(self, 0, depth=depth, num_classes=num_classes)
        checks.positive(self, sigma_data=sigma_data)
        super().__init__(process, "x0", (dimension,), width, num_classes, second_time, weights)
        self.sigma_data = sigma_data
        self.stem = nn.Linear(dimension, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, dimension)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def feature_path(self) -> str:
        return f"blocks.{len(self.blocks) // 2}"

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        scalings = edm_preconditioning(self.process, t, self.sigma_data)
        embedding = self.embed(time_features(scalings.c_noise, TIME_FREQUENCIES), x_t, t, condition, s)
        h = self.stem(scalings.network_input(x_t).to(self.dtype))
        for block in self.blocks:
            h = block(h, embedding)
        return scalings.x0(x_t, self.head(F.silu(h)))
