"""The written mutations: one file per room, in a format like a patch.

    @ fastgen/methods/base.py
    = the student's turn steps every schedule
    - text that occurs once in the file
    + text that takes its place
    ~ why no test can notice, for a mutation that changes nothing

A text of several lines has a mark before each of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

ROOMS = Path(__file__).resolve().parent / "rooms"
AROUND = 12
"""Lines on both sides of a mutation that may change what it does."""


@dataclass
class Mutation:
    """One mistake.

    Attributes:
        room: Name of the file it is written in.
        file: What it changes, from the root of the repository.
        name: What goes wrong.
        old: Text that occurs exactly once.
        new: Text that takes its place.
        equivalent: Why nobody can notice; empty if somebody should.
    """

    room: str
    file: str
    name: str
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    equivalent: str = ""

    def applied(self, source: str) -> str | None:
        """The source with the mistake; ``None`` if the text does not occur exactly once (any more)."""
        old, new = "\n".join(self.old), "\n".join(self.new)
        return source.replace(old, new) if source.count(old) == 1 else None

    def digest(self, source: str) -> str:
        """Stands for this mutation among the lines of the source around it."""
        before, found, after = source.partition("\n".join(self.old))
        lines = [*before.splitlines()[-AROUND:], found, *after.splitlines()[:AROUND]]
        text = "\0".join([self.file, self.name, *self.old, "", *self.new, *lines])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: Path) -> list[Mutation]:
    """The mutations of one room.

    Raises:
        ValueError: If a line has no known mark.
    """
    found: list[Mutation] = []
    file = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, text = line[:1], line[2:]
        if mark == "@":
            file = text
        elif mark == "=":
            found.append(Mutation(path.stem, file, text))
        elif mark == "-":
            found[-1].old.append(text)
        elif mark == "+":
            found[-1].new.append(text)
        elif mark == "~":
            found[-1].equivalent = text
        elif line.strip() and mark != "#":
            raise ValueError(f"{path.name}:{number}: a line begins with one of @ = - + ~ #, not {line!r}")
    return found


def catalogue() -> list[Mutation]:
    """All mutations, room by room."""
    return [mutation for path in sorted(ROOMS.glob("*.txt")) for mutation in read(path)]
