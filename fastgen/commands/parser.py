"""What the small commands share: a parser whose complaints are user errors, and lists of numbers."""

from __future__ import annotations

import argparse
from typing import NoReturn

from fastgen.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises a :class:`UserError` where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}.")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option that names modules whose classes a checkpoint may ask for."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="build classes of this module too, if the checkpoint names them; else only those of fastgen; may be "
        "repeated",
    )


def integers(text: str) -> list[int]:
    """``0-63`` or ``1,5,9-12`` as a list.

    Raises:
        UserError: If the text is something else.
    """
    numbers: list[int] = []
    try:
        for piece in text.split(","):
            first, _, last = piece.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise UserError(f"'{text}' is no list of numbers; write e.g. 0-63 or 1,5,9.") from error
    if not numbers:
        raise UserError(f"'{text}' names no number; write e.g. 0-63.")
    return numbers
