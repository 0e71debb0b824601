"""How images reach the size that a network reads. Published numbers differ more by this than by anything else.

Every function takes uint8 images (N, C, H, W) and gives floating-point images on the scale 0-255.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Filter = Literal["bicubic", "bilinear"]


def resize_none(images: Tensor, size: int = 0) -> Tensor:
    """The images as they are, fp32; for networks that take any size and for crops that fit already."""
    return images.float()


def resize_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear as TensorFlow 1 had it (``align_corners=False``, no half-pixel centres, no antialiasing), fp32.

    Output pixel i is read at input position ``i * H / size``. This is inside the Inception graph of the original FID,
    and so in EDM, StyleGAN and torch-fidelity (``resize_bilinear_op.cc`` of TensorFlow 1).

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
    """
    resized = images.float()
    for axis in (3, 2):  # columns first, as TensorFlow rounds
        length = images.shape[axis]
        position = torch.arange(size, device=images.device, dtype=torch.float32) * (length / size)
        low = position.long()
        weight = (position - low).view(-1, *([1] * (3 - axis)))
        first = resized.index_select(axis, low)
        second = resized.index_select(axis, (low + 1).clamp_max(length - 1))
        resized = first + (second - first) * weight
    return resized


def resize_clean(images: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing on floating-point channels, clamped: what clean-fid calls "clean", fp32.

    Parmar et al. 2022, arXiv 2104.11222: Pillow's bicubic filter in its mode "F". Computed in fp64, which keeps within
    1e-4 of Pillow; fp32 does not.

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
    """
    resized = functional.interpolate(images.double(), (size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 255).float()


def resize_bicubic(images: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing, neither rounded nor clamped, fp32: EDM2's input of DINOv2 (``calculate_metrics.py``).

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
    """
    return functional.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)


def resize_bicubic_plain(images: Tensor, size: int) -> Tensor:
    """Bicubic without antialiasing, fp32: the input of CMMD (Jayasumana et al. 2024, arXiv 2401.09603; its code).

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
    """
    return functional.interpolate(images.float(), (size, size), mode="bicubic")


def resize_pillow(images: Tensor, height: int, width: int, filtering: Filter = "bicubic") -> Tensor:
    """As Pillow resizes 8-bit images: columns, then rows, each antialiased and rounded to 8 bits; fp32 whole numbers.

    The rounding between the passes clips overshoots, so one two-dimensional pass is not enough.

    Args:
        images: uint8 (N, C, H, W).
        height: Of the result.
        width: Of the result.
        filtering: The kernel.
    """
    resized = images.double()
    for shape in ((images.shape[2], width), (height, width)):
        if resized.shape[2:] != shape:
            resized = functional.interpolate(resized, shape, mode=filtering, antialias=True)
            resized = resized.add(0.5).floor().clamp(0, 255)  # halves go up in Pillow, not to even
    return resized.float()


def resize_shortest(images: Tensor, size: int, filtering: Filter = "bicubic") -> Tensor:
    """Shortest side to ``size`` as Pillow does it, then the central square: the input of CLIP.

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
        filtering: The kernel.
    """
    height, width = images.shape[2:]
    if height <= width:
        height, width = size, int(size * width / height)
    else:
        height, width = int(size * height / width), size
    resized = resize_pillow(images, height, width, filtering)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized[:, :, top : top + size, left : left + size]


def resize_squash(images: Tensor, size: int, filtering: Filter = "bicubic") -> Tensor:
    """Both sides to ``size`` as Pillow does it, whatever the aspect ratio: the input of SigLIP.

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
        filtering: The kernel.
    """
    return resize_pillow(images, size, size, filtering)


def resize_longest(images: Tensor, size: int, filtering: Filter = "bicubic", antialias: bool = True) -> Tensor:
    """Longest side to ``size`` in floating point, the rest padded with black: the input of HPSv2.

    The official tool resizes after the conversion to floats, so nothing is rounded. It left ``antialias`` to the
    torchvision of its day, which did not antialias tensors before 0.17 and has done so since.

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
        filtering: The kernel.
        antialias: See above.
    """
    scale = size / max(images.shape[2:])
    height, width = (round(side * scale) for side in images.shape[2:])
    resized = functional.interpolate(images.float(), (height, width), mode=filtering, antialias=antialias)
    top, left = (size - height) / 2, (size - width) / 2
    return functional.pad(resized, (math.floor(left), math.ceil(left), math.floor(top), math.ceil(top)))


def resize_lanczos(images: Tensor, size: int) -> Tensor:
    """The square centre scaled by Pillow's Lanczos filter, uint8 again; what has the size already is left alone.

    What DMD2 does with samples and references before any metric (Yin et al. 2024, arXiv 2405.14867,
    ``coco_evaluator.py``).

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width of the result.
    """
    height, width = images.shape[2:]
    if height == width == size:
        return images
    import numpy as np
    from PIL import Image

    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, :, top : top + side, left : left + side].cpu().flatten(0, 1)
    resized = [Image.fromarray(one.numpy()).resize((size, size), Image.Resampling.LANCZOS) for one in square]
    arrays = torch.from_numpy(np.stack([np.asarray(one) for one in resized]))
    return arrays.unflatten(0, images.shape[:2]).to(images.device)


def standardise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(images / 255 - mean) / std`` per channel."""
    shape = (1, -1, 1, 1)
    return (images / 255 - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
