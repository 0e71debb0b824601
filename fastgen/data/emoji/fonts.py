"""Colour drawings out of an emoji font, or out of a folder; nothing of the font is part of fastgen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastgen.errors import UserError
from fastgen.refusals import reason_of, refuse_special
from fastgen.storage.files import resolve

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("NotoColorEmoji.ttf", "NotoColorEmoji-Regular.ttf")
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
"""Where systems keep fonts."""
PIXELS = 109
"""The only size that the font holds pictures for."""
MARGIN = 12
"""Room around a drawing, which may leave its box."""


def find_font(font: str = "system") -> Path:
    """The file of an emoji font, or a folder of drawings.

    Args:
        font: A path, or ``system``: Noto Color Emoji in one of the system's folders.

    Raises:
        UserError: If it is not there.
    """
    if font != "system":
        return resolve(font)
    for folder in (Path(name).expanduser() for name in FOLDERS):
        for name in NAMES:
            if found := sorted(folder.rglob(name)):
                return found[0]
    raise UserError(
        "The font Noto Color Emoji is not among the system's fonts; install the package fonts-noto-color-emoji, or "
        "give the path of NotoColorEmoji.ttf as data.init_args.font."
    )


def render(font: Path, characters: Sequence[str]) -> list[Image]:
    """Each character's drawing, cut out: RGBA, about 128 pixels wide or high.

    Args:
        font: A font's file, or a folder with transparent pictures named by code point, such as ``1F34E.png``.
        characters: What to draw.

    Raises:
        UserError: If the file is no font with colour pictures, or lacks a character.
    """
    return [from_folder(font, character) for character in characters] if font.is_dir() else from_font(font, characters)


def from_folder(folder: Path, character: str) -> Image:
    """The drawing in ``<code point>.png``, cut out."""
    from PIL import Image

    path = folder / f"{ord(character):X}.png"
    refuse_special(path, "picture")
    try:
        with Image.open(path, formats=["PNG"]) as file:
            drawing = file.convert("RGBA")
    except (OSError, SyntaxError) as error:
        raise UserError(f"'{path}' cannot be read ({reason_of(error)}); give a PNG with the drawing.") from error
    box = drawing.getbbox()
    if box is None:
        raise UserError(f"'{path}' shows nothing; give a PNG with the drawing.")
    return drawing.crop(box)


def from_font(font: Path, characters: Sequence[str]) -> list[Image]:
    """The drawings of a font."""
    from PIL import Image, ImageDraw, ImageFont

    try:
        face = ImageFont.truetype(font, PIXELS)
    except OSError as error:
        raise UserError(
            f"'{font}' cannot be used as an emoji font ({reason_of(error)}); give NotoColorEmoji.ttf, of which "
            f"Pillow reads the pictures of {PIXELS} pixels."
        ) from error
    drawings = []
    for character in characters:
        _, _, right, bottom = (round(edge) for edge in face.getbbox(character))
        page = Image.new("RGBA", (right + 2 * MARGIN, bottom + 2 * MARGIN))
        ImageDraw.Draw(page).text((MARGIN, MARGIN), character, font=face, embedded_color=True)
        box = page.getbbox()
        if box is None or not any(page.getchannel(band).getextrema() != (0, 0) for band in "RGB"):
            raise UserError(
                f"'{font}' has no coloured drawing of U+{ord(character):X}; give NotoColorEmoji.ttf, or a list of "
                "drawings without it."
            )
        drawings.append(page.crop(box))
    return drawings
