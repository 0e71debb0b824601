"""From drawings to pictures: shrinking, laying on a background, and what can be seen there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "grey": (136, 136, 136),
    "red": (214, 62, 62),
    "yellow": (250, 216, 80),
    "green": (84, 168, 90),
    "blue": (66, 120, 214),
    "purple": (140, 86, 190),
}
"""Colours of the background, in 8 bits."""
SIZES: dict[str, tuple[int, int]] = {"large": (3, 4), "small": (1, 2)}
"""Side of the drawing as a share of the picture's."""
POSITIONS: dict[str, tuple[int, int]] = {
    "middle": (1, 1),
    "left": (1, 0),
    "right": (1, 2),
    "top": (0, 1),
    "bottom": (2, 1),
}
"""Rows and columns above and left of the drawing, in halves of the room that it leaves."""
DIFFERENT = 0.25
"""Least distance of two colours, each in [0, 1]^3, that a viewer tells apart at a glance."""


def shrink(drawing: Image, side: int) -> Tensor:
    """A drawing within a square: (4, side, side) in [0, 1], red, green, blue already times alpha.

    Shrunk any other way, the colours that hide where nothing shows would leak into the edges.
    """
    import numpy as np
    from PIL.Image import Resampling

    scale = side / max(drawing.size)
    width, height = (max(1, round(length * scale)) for length in drawing.size)
    small = np.asarray(drawing.convert("RGBa").resize((width, height), Resampling.HAMMING), dtype=np.float32) / 255
    square = torch.zeros(4, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = torch.from_numpy(small).permute(2, 0, 1)
    square[:3] = torch.minimum(square[:3], square[3:])
    return square


def colour(background: str) -> Tensor:
    """A background's colour, (3, 1, 1) in [0, 1]."""
    return torch.tensor(BACKGROUNDS[background]).reshape(3, 1, 1) / 255


def compose(sprite: Tensor, background: str, position: str, resolution: int) -> Tensor:
    """A drawing on its background.

    Args:
        sprite: What :func:`shrink` made, (4, side, side).
        background: One of ``BACKGROUNDS``.
        position: One of ``POSITIONS``.
        resolution: Side of the picture in pixels.

    Returns:
        uint8 (3, resolution, resolution).
    """
    side = sprite.shape[-1]
    picture = colour(background).expand(3, resolution, resolution).clone()
    top, left = ((resolution - side) * halves // 2 for halves in POSITIONS[position])
    place = picture[:, top : top + side, left : left + side]
    place.mul_(1 - sprite[3:]).add_(sprite[:3])
    return (picture * 255).round().to(torch.uint8)


def visible_share(sprite: Tensor, background: str) -> float:
    """The share of a drawing (4, side, side), by alpha, whose colour differs from that of the background."""
    alpha = sprite[3]
    own = sprite[:3] / alpha.clamp(min=1e-3)
    differs = (own - colour(background)).square().sum(0).sqrt() > DIFFERENT
    return float((alpha * differs).sum() / alpha.sum())


def sizes(resolution: int) -> Sequence[int]:
    """Sides of drawings in pixels, in the order of ``SIZES``."""
    return [resolution * numerator // denominator for numerator, denominator in SIZES.values()]
