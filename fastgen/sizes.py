"""Height and width of pictures, as options name them."""

from __future__ import annotations

from typing import Literal

from fastgen import checks
from fastgen.errors import UserError


def height_and_width(
    owner: checks.Owner,
    resolution: int | Literal["trained"] | None,
    height: int | None,
    width: int | None,
    trained: int | None = None,
) -> tuple[int, int]:
    """The size that ``resolution`` (squares), or ``height`` and ``width`` ask for, in pixels.

    Args:
        owner: What has the options, or its name, for messages.
        resolution: Side of a square; ``trained`` is that of ``trained``, ``None`` is not given.
        height: Given together with ``width`` in place of ``resolution``.
        width: See there.
        trained: Side of the squares that a network was trained at.

    Raises:
        UserError: If both ways are taken, neither is, one side is missing, or no picture has such a side.
    """
    name = checks.name_of(owner)
    given = None if resolution == "trained" else resolution
    checks.whole(owner, 1, checks.LARGEST_SIDE, resolution=given, height=height, width=width)
    if height is None and width is None:
        side = trained if resolution == "trained" else given
        if side is None:
            raise UserError(f"{name}: no size is given; give resolution for squares, or height and width.")
        return side, side
    if given is not None:
        raise UserError(f"{name}: resolution stands for height and width; give it or those two, not both.")
    if height is None or width is None:
        there, missing = ("height", "width") if width is None else ("width", "height")
        raise UserError(f"{name}: {there} is given without {missing}; give both, or resolution for squares.")
    return height, width
