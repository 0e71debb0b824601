"""Numbers per sample, or per frame of a sample, beside tensors of samples."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_axes(value: Tensor, like: Tensor) -> Tensor:
    """``value`` with axes of length 1 behind its own, as many as ``like`` has more.

    So (B,) is a number per sample of (B, C, H, W), (B, F) one per frame of (B, F, D), and (B, 1, F) one per frame of
    videos (B, C, F, H, W).
    """
    return value.reshape(*value.shape, *[1] * (like.ndim - value.ndim))


def expand(value: Tensor, like: Tensor) -> Tensor:
    """:func:`pad_axes`, in the dtype of ``like`` but at least fp32."""
    return pad_axes(value.to(torch.promote_types(like.dtype, torch.float32)), like)


def where_rows(mask: Tensor, chosen: Tensor, otherwise: Tensor | float) -> Tensor:
    """``chosen`` (B, ...) in the samples of ``mask`` (B,), or its frames (B, 1, F), else ``otherwise``."""
    return torch.where(pad_axes(mask, chosen), chosen, otherwise)
