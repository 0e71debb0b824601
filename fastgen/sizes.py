"""Height and width of pictures, as options name them."""

from __future__ import annotations

from fastgen import checks
from fastgen.errors import UserError


def height_and_width(
    owner: checks.Owner, resolution: int | None, height: int | None, width: int | None, default: int | None = None
) -> tuple[int, int]:
    """The size that ``resolution`` (squares), or ``height`` and ``width`` ask for, in pixels.

    Args:
        owner: What has the options, or its name, for messages.
        resolution: Side of a square.
        height: Given together with ``width`` in place of ``resolution``.
        width: See there.
        default: Side of the square if nothing is given; None where something must be.

    Raises:
        UserError: If both ways are taken, neither is, one side is missing, or no picture has such a side.
    """
    name = checks.name_of(owner)
    checks.whole(owner, 1, checks.LARGEST_SIDE, resolution=resolution, height=height, width=width)
    if height is None and width is None:
        side = default if resolution is None else resolution
        if side is None:
            raise UserError(f"{name}: no size is given; give resolution for squares, or height and width.")
        return side, side
    if resolution is not None:
        raise UserError(f"{name}: resolution stands for height and width; give it or those two, not both.")
    if height is None or width is None:
        given, missing = ("height", "width") if width is None else ("width", "height")
        raise UserError(f"{name}: {given} is given without {missing}; give both, or resolution for squares.")
    return height, width
