"""The drawings of a list, at the sizes of the pictures, and which of their combinations there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from fastgen.data.emoji.captions import Picture
from fastgen.data.emoji.fonts import render
from fastgen.data.emoji.pictures import BACKGROUNDS, POSITIONS, SIZES, compose, shrink, sizes, visible_share
from fastgen.data.tables import read_lines
from fastgen.errors import UserError
from fastgen.randomness import derive_seed
from fastgen.storage.files import resolve

HELD_OUT = 0.1
"""Share of the combinations that training never shows."""
VISIBLE = 0.4
"""Least share of a drawing that must differ from its background."""
COMBINATIONS = tuple(product(BACKGROUNDS, SIZES, POSITIONS))
"""Background, size and position of combination i."""


def read_drawings(path: str) -> dict[str, str]:
    """The characters of a list by their names; a line holds a code point in hexadecimal and a name.

    Raises:
        UserError: If a line is something else, a name comes twice, or there is none.
    """
    found: dict[str, str] = {}
    for line in read_lines(resolve(path)):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"(?:U\+)?([0-9A-Fa-f]{2,6})\s+([a-z0-9][a-z0-9 -]*)", line)
        if match is None or int(match[1], 16) > 0x10FFFF:
            raise UserError(
                f"'{path}' has the line '{line}'; write a code point and a name, such as '1F34E red apple'."
            )
        if match[2] in found:
            raise UserError(f"'{path}' has two drawings named '{match[2]}'; give each a name of its own.")
        found[match[2]] = chr(int(match[1], 16))
    if not found:
        raise UserError(f"'{path}' names no drawing; write lines such as '1F34E red apple'.")
    return found


def place_of(picture: Picture) -> float:
    """A number in [0, 1) that depends on the combination alone: below ``HELD_OUT`` it is held out."""
    return derive_seed(*(str(value) for value in vars(picture).values())) / 2**63


@dataclass(frozen=True)
class Drawings:
    """Drawings at the sizes of the pictures.

    Attributes:
        sprites: By name, one per size: (4, side, side) as :func:`~fastgen.data.emoji.pictures.shrink` makes them.
        resolution: Side of the pictures in pixels.
    """

    sprites: dict[str, list[Tensor]]
    resolution: int

    @classmethod
    def of_font(cls, font: Path, characters: dict[str, str], resolution: int) -> Drawings:
        """Render ``characters`` by name."""
        rendered = render(font, list(characters.values()))
        sprites = [[shrink(drawing, side) for side in sizes(resolution)] for drawing in rendered]
        return cls(dict(zip(characters, sprites, strict=True)), resolution)

    @cached_property
    def names(self) -> list[str]:
        """Of the drawings, in the order of their numbers."""
        return list(self.sprites)

    def picture(self, drawing: int, combination: int) -> Picture:
        """What a combination of a drawing shows."""
        return Picture(self.names[drawing], *COMBINATIONS[combination])

    @cached_property
    def _numbers(self) -> list[dict[str, int]]:
        tables = (self.names, BACKGROUNDS, SIZES, POSITIONS)
        return [{value: number for number, value in enumerate(table)} for table in tables]

    def _pairs(self, picture: Picture) -> Iterator[tuple[dict[str, int], str | None]]:
        return zip(self._numbers, vars(picture).values(), strict=True)

    def numbers(self, pictures: Sequence[Picture]) -> Tensor:
        """Drawing, background, size and position as numbers, (N, 4) int64; -1 is left open."""
        rows = [[-1 if value is None else table[value] for table, value in self._pairs(p)] for p in pictures]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)

    def pixels(self, picture: Picture) -> Tensor:
        """The picture itself, uint8 (3, resolution, resolution)."""
        assert picture.name and picture.background and picture.size and picture.position
        sprite = self.sprites[picture.name][list(SIZES).index(picture.size)]
        return compose(sprite, picture.background, picture.position, self.resolution)

    def parts(self) -> tuple[list[list[int]], ...]:
        """Of every drawing the combinations of training, validation and test; those in which it vanishes are in none.

        Raises:
            UserError: If a drawing has none for training.
        """
        parts: tuple[list[list[int]], ...] = ([], [], [])
        for drawing, (name, sprites) in enumerate(self.sprites.items()):
            shows = {ground for ground in BACKGROUNDS if visible_share(sprites[0], ground) >= VISIBLE}
            rows: tuple[list[int], ...] = ([], [], [])
            for number, (background, _, _) in enumerate(COMBINATIONS):
                if background in shows:
                    place = place_of(self.picture(drawing, number))
                    rows[0 if place >= HELD_OUT else 1 if place < HELD_OUT / 2 else 2].append(number)
            if not rows[0]:
                raise UserError(f"The drawing '{name}' shows on no background; leave it out.")
            for part, row in zip(parts, rows, strict=True):
                part.append(row)
        return parts


def flat(rows: list[list[int]]) -> Tensor:
    """The combinations of a part as pairs of drawing and combination, (N, 2) int64."""
    return torch.tensor([(i, number) for i, row in enumerate(rows) for number in row], dtype=torch.int64).reshape(-1, 2)
