"""From the numbers of a sampler to the pixels that metrics see."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.errors import UserError


def are_finite(samples: Tensor) -> Tensor:
    """Which of the samples (N, ...) hold nothing but finite numbers, (N,)."""
    finite = samples.isfinite()
    return finite if finite.ndim == 1 else finite.flatten(1).all(1)


def refuse_not_finite(samples: Tensor) -> None:
    """Raise a ``UserError`` if a sample (N, ...) holds a value that is not finite: as a pixel it would be black."""
    if broken := len(samples) - int(are_finite(samples).sum()):
        raise UserError(
            f"{broken} of {len(samples)} samples hold values that are not finite numbers, so they are no pictures; "
            "look at what made them."
        )


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, ``round((x + 1) * 127.5)`` clamped to 0-255. uint8 passes unchanged.

    Raises:
        UserError: If a value is not finite.
    """
    if images.dtype == torch.uint8:
        return images
    refuse_not_finite(images)
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
