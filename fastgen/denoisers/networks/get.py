"""The generative equilibrium transformer: one call whose depth is that of a fixed point."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.networks.dit import Block, grid_positions
from fastgen.denoisers.networks.equilibrium import fixed_point
from fastgen.denoisers.networks.labels import LabelledDenoiser
from fastgen.errors import UserError
from fastgen.processes import EDM, Process
from fastgen.shapes import expand


class GETransformer(LabelledDenoiser):
    """Generative equilibrium transformer: noise in, x0 out (Geng et al. 2023, arXiv 2401.08639, locuslab/get).

    An injection transformer reads the patches of the noise once; then ``z = norm(injection + blocks(z))`` is solved for
    z, and z is decoded to patches. The blocks of the equilibrium are few and used over and over, in the forward and the
    backward pass. It is a student of one call: it reads the noise, ``x_t / sigma(t)``, and no time.

    Differs: the injection is added to the tokens and not within each attention; plain iteration of a fixed length in
    place of Anderson's, so that no sample depends on its batch.

    Args:
        process: How data becomes noise.
        channels: Channels of an image.
        resolution: Height and width of an image.
        patch: Height and width of the pixels that make one token.
        width: Width of a token, divisible by 4 and by ``heads``.
        injection_depth: Blocks that are used once.
        depth: Blocks of the equilibrium.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``width``.
        iterations: Iterations of the forward pass.
        backward_iterations: Iterations of the backward pass.
        num_classes: Number of classes; 0 means unconditional.
        weights: safetensors file, or ``None`` for random weights.

    Raises:
        UserError: If a size does not divide.
    """

    def __init__(
        self,
        process: Process = EDM(),
        channels: int = 1,
        resolution: int = 8,
        patch: int = 2,
        width: int = 64,
        injection_depth: int = 3,
        depth: int = 3,
        heads: int = 4,
        mlp_ratio: int = 4,
        iterations: int = 6,
        backward_iterations: int = 6,
        num_classes: int = 0,
        weights: str | None = None,
    ) -> None:
        checks.whole(
            self,
            channels=channels,
            resolution=resolution,
            patch=patch,
            width=width,
            injection_depth=injection_depth,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            iterations=iterations,
        )
        checks.whole(self, 0, backward_iterations=backward_iterations, num_classes=num_classes)
        if resolution % patch:
            raise UserError(f"GETransformer: resolution {resolution} is not divisible by patch {patch}.")
        if width % 4 or width % heads:
            raise UserError(f"GETransformer: width {width} must be divisible by 4 and by heads = {heads}.")
        super().__init__(process, "x0", (channels, resolution, resolution), num_classes, weights)
        self.patch, self.rows = patch, resolution // patch
        self.iterations, self.backward_iterations = iterations, backward_iterations
        self.patches = nn.Linear(channels * patch**2, width)
        self.register_buffer("positions", grid_positions(width, self.rows), persistent=False)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.injection = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(injection_depth))
        self.equilibrium = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.head = nn.Linear(width, channels * patch**2)

    positions: Tensor

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        if s is not None:
            raise UserError("GETransformer is a student of one call; it takes no second time.")
        noise = x_t / expand(self.process.sigma(t), x_t)
        p, rows = self.patch, self.rows
        cells = noise.unflatten(2, (rows, p)).unflatten(4, (rows, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        h = self.patches(cells.to(self.patches.weight.dtype)) + self.positions
        embedding = h.new_zeros(len(h), h.shape[2])
        if self.label is not None:
            embedding = F.silu(self.label(self.labels(condition, x_t)))
        for block in self.injection:
            h = block(h, embedding)

        def step(z: Tensor) -> Tensor:
            inner = z
            for block in self.equilibrium:
                inner = block(inner, embedding)
            return F.layer_norm(h + inner, h.shape[-1:], eps=1e-6)

        z = fixed_point(step, torch.zeros_like(h), self.iterations, self.backward_iterations)
        out = self.head(z).unflatten(1, (rows, rows)).unflatten(3, (-1, p, p))
        return out.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).to(x_t.dtype)
