"""Pictures of videos: frames side by side, and files that play."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.storage.writing import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES_PER_SECOND = 16
"""As Wan 2.1 was trained."""
STRIP = 8
"""Most frames of a strip."""


def strips(videos: Tensor) -> Tensor:
    """Videos (N, C, F, H, W) as images (N, C, H, f W): up to 8 frames from the first to the last, side by side."""
    count = videos.shape[2]
    chosen = torch.linspace(0, count - 1, min(count, STRIP)).round().long()
    return videos[:, :, chosen].transpose(2, 3).flatten(3)


def save_animation(frames: Sequence[Image], path: str | Path) -> Path:
    """Write pictures as one file that plays; the suffix names the format, ``.webp`` or ``.gif``."""
    first, *others = frames
    settings: dict[str, Any] = {
        "save_all": True,
        "append_images": others,
        "duration": round(1000 / FRAMES_PER_SECOND),
        "loop": 0,
    }
    return write_atomically(path, lambda temporary: first.save(temporary, quality=90, **settings))
