"""From the numbers of a sampler to the pixels that metrics see."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, ``round((x + 1) * 127.5)`` clamped to 0-255. uint8 passes unchanged."""
    if images.dtype == torch.uint8:
        return images
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
