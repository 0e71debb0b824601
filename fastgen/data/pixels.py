"""One picture of a file: what a viewer shows on a white page, in 8 bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastgen.errors import Malformed, UserError
from fastgen.refusals import reason_of, refuse_special, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What a file may hold, whatever its suffix says. Pillow knows more, among it PostScript, which runs programs."""
MODES = {"rgb": "RGB", "grey": "L"}
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of TIFF."""


def open_picture(path: Path, color: Literal["rgb", "grey"] = "rgb") -> Image:
    """A picture as 8-bit RGB or grey, turned upright as its EXIF data say.

    What is transparent shows white, as in img2dataset (whatever colours lie hidden there); 16 bits per value are
    scaled to 8; of several frames the first is taken; profiles of colour are left alone.

    Raises:
        UserError: If the file cannot be read, is no whole picture, or its values have no scale.
    """
    from PIL import Image, ImageOps

    refuse_special(path, "picture")
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.mode == "F" or (file.mode == "I" and file.format != "PNG"):
                kind = "floating-point numbers" if file.mode == "F" else "32-bit integers"
                raise Malformed(f"its pixels are {kind} of unknown range")
            tags = getattr(file, "tag_v2", {})
            image = ImageOps.exif_transpose(file)
            if file.mode == "I" or file.mode.startswith("I;16"):
                image = to_eight_bits(image, tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(PHOTOMETRIC) == 0)
            return on_white(image).convert(MODES[color])
    except OSError as error:
        if error.errno is not None:
            raise unreadable(path, error, "picture") from error
        raise _damaged(path, error) from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise almost anything
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = reason_of(error).replace(repr(os.fspath(path)), "the file")
    return UserError(f"The image '{path}' cannot be read ({reason}); replace or delete it, or set data.on_error: skip.")


def to_eight_bits(image: Image, bits: int, inverted: bool) -> Image:
    """A grey image of up to 16 bits with its whole range scaled to 8; Pillow itself would cut it off at 255.

    Args:
        image: Mode ``I;16`` or the like.
        bits: Of its largest value.
        inverted: Whether zero is white.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    scaled = np.rint(values.clip(0, 2**bits - 1) * 255 / (2**bits - 1)).astype(np.uint8)
    grey = Image.fromarray(255 - scaled if inverted else scaled)
    if (hidden := image.info.get("transparency")) is not None:  # the one value that is transparent
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def on_white(image: Image) -> Image:
    """An image without transparency."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    picture = image.convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    return page.convert("RGB")


def pictures_below(root: Path) -> list[Path]:
    """All files with a picture's suffix in a folder and its subfolders, sorted by their relative path.

    Links to folders are followed, as class folders are often links; links that lead nowhere are among the files, so
    that reading says so.

    Raises:
        UserError: If a folder cannot be read, or a link leads to a folder that it lies in.
    """

    def stop(error: OSError) -> None:
        raise unreadable(error.filename, error, "folder") from error

    found = []
    for place, folders, names in os.walk(root, onerror=stop, followlinks=True):
        for name in folders:
            inner = Path(place, name)
            if inner.is_symlink() and Path(place).resolve().is_relative_to(inner.resolve()):
                raise UserError(f"'{inner}' is a link to a folder that it lies in; remove it.")
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())
