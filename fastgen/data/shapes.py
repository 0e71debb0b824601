"""Shapes of the pictures in a folder, from their headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from fastgen.data.pixels import FORMATS
from fastgen.refusals import refuse_special

LOOKED_AT = 256
"""Pictures whose shapes are looked at before training, at most."""
QUARTER_TURN = 5
"""First of the EXIF orientations that exchange height and width."""


def upright_size(path: Path) -> tuple[int, int] | None:
    """Height and width of what :func:`open_picture` gives, from the file's header; None if it cannot be read."""
    from PIL import ExifTags, Image

    try:
        refuse_special(path, "picture")
        with Image.open(path, formats=FORMATS) as file:
            turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= QUARTER_TURN
            return (file.width, file.height) if turned else (file.height, file.width)
    except Exception:  # whoever reads the whole file says what is wrong with it
        return None


def warn_of_crops(paths: Sequence[Path], size: tuple[int, int], root: str) -> None:
    """Warn if cropping to ``size`` (height, width) cuts more than a third away from more than a tenth of the pictures.

    At most ``LOOKED_AT`` of them, evenly spread, are looked at; those that cannot be read are left to their reader.
    """
    chosen = [paths[i * len(paths) // LOOKED_AT] for i in range(LOOKED_AT)] if len(paths) > LOOKED_AT else paths
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        sizes = [found for found in pool.map(upright_size, chosen) if found is not None]
    wanted = size[0] / size[1]

    def kept(found: tuple[int, int]) -> float:
        shape = found[0] / found[1]
        return min(shape / wanted, wanted / shape)

    cut = sorted((found for found in sizes if 3 * kept(found) < 2), key=lambda found: found[0] / found[1])
    if 10 * len(cut) > len(sizes):
        height, width = cut[len(cut) // 2]
        rank_zero_warn(
            f"Cropping to {size[1]}x{size[0]} pixels (width x height) cuts more than a third away from {len(cut)} of "
            f"{len(sizes)} images of '{root}' that were looked at, such as one of {width}x{height}; give data.height "
            "and data.width of their shape."
        )
