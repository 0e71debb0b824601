"""What the small commands share: a parser whose complaints are user errors, and lists of numbers."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from fastgen.errors import UserError
from fastgen.messages import named, near, one_sentence

LARGEST = 2**63 - 1
"""Seeds and labels are 64-bit integers."""
MOST = 1_000_000
"""Numbers that a list may have; each is a sample, and more than one call can make."""
MOST_STEPS = 10_000


class OptionParser(argparse.ArgumentParser):
    """Raises a :class:`UserError` where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {one_sentence(message)}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Names an unknown option first: that others are missing may be because it is misspelt."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if re.fullmatch(r"--[a-z][\w-]*", name) and not any(option.startswith(name) for option in options):
                raise UserError(
                    f"{self.prog}: there is no option {name}{near(name, options)}; known are {named(options)}."
                )
        return super().parse_args(args, namespace)


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
    for piece in text.split(","):
        if not (found := re.fullmatch(r"\s*([0-9]{1,19})\s*(?:-\s*([0-9]{1,19})\s*)?", piece)):
            raise UserError(f"'{shortened(text)}' is no list of numbers; write e.g. 0-63 or 1,5,9.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UserError(f"'{shortened(text)}' counts down from {first} to {last}; write the smaller number first.")
        if last > LARGEST:
            raise UserError(f"'{shortened(text)}' names a number above {LARGEST}; give smaller ones.")
        if len(numbers) + last - first >= MOST:
            raise UserError(f"'{shortened(text)}' names more than {MOST:,} numbers; give fewer at once.")
        numbers.extend(range(first, last + 1))
    return numbers


def shortened(text: str) -> str:
    """What the user wrote, if it is not too long to be repeated."""
    return text if len(text) <= 60 else f"{text[:60]}..."


def whole(least: int = 1, most: int = 2**31 - 1, **options: int | None) -> None:
    """Check numbers of options; ``None`` was not given. The names are the options' with ``_`` for ``-``.

    Raises:
        UserError: If one is below ``least`` or above ``most``.
    """
    for name, value in options.items():
        if value is not None and not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(f"--{name.replace('_', '-')} must be {bound}, got {shortened(str(value))}.")
