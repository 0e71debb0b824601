"""Differentiable augmentation of what a discriminator sees."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.randomness import Draws
from fastgen.shapes import pad_axes


def augmented(images: Tensor, draws: Draws) -> Tensor:
    """Images (B, C, H, W) with other colours, moved, and with a square cut out; each by numbers of its own.

    Zhao et al. 2020, DiffAugment, arXiv 2006.10738, policy ``color,translation,cutout``: brightness +-1/2, saturation
    0 to 2, contrast 1/2 to 3/2; up to an eighth of a side, zeros from outside; half a side of zeros.
    """
    _, _, height, width = images.shape
    uniform = {
        name: pad_axes(draws.uniform(name, images.dtype), images) for name in ("brightness", "saturation", "contrast")
    }
    x = images + uniform["brightness"] - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2.0 * uniform["saturation"]) + grey
    centre = x.mean((1, 2, 3), keepdim=True)
    x = (x - centre) * (uniform["contrast"] + 0.5) + centre
    return cut(moved(x, draws, height, width), draws, height, width)


def moved(x: Tensor, draws: Draws, height: int, width: int) -> Tensor:
    """Each image by up to an eighth of its sides, zeros from outside."""
    rows, columns = (torch.arange(size, device=x.device)[None, :] for size in (height, width))
    at = []
    for name, grid, size in (("down", rows, height), ("right", columns, width)):
        reach = int(size / 8 + 0.5)
        at.append(grid - (draws.integers(name, 2 * reach + 1) - reach).to(x.device)[:, None])
    y, z = at
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((z >= 0) & (z < width))[:, None, :]
    taken = x.permute(0, 2, 3, 1)[batch, y.clamp(0, height - 1)[:, :, None], z.clamp(0, width - 1)[:, None, :]]
    return taken.permute(0, 3, 1, 2) * inside[:, None].to(x.dtype)


def cut(x: Tensor, draws: Draws, height: int, width: int) -> Tensor:
    """Each image without a square of half its sides, somewhere."""
    inside = []
    for name, size in (("top", height), ("left", width)):
        length = int(size * 0.5 + 0.5)
        start = draws.integers(name, size + (1 - length % 2)).to(x.device)[:, None] - length // 2
        grid = torch.arange(size, device=x.device)[None, :]
        inside.append((grid >= start) & (grid < start + length))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return x * (~hole)[:, None].to(x.dtype)
