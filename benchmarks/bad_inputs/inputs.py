"""One bad input, and what it came to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Expected = Literal["refuse", "either", "ok"]

JARGON = re.compile(
    r"Union|subtypes|Expected an? <|Does not validate|given class_path|NoneType|typing\.|init_args entry|Parser key"
    r"|Namespace\(|Traceback|object at 0x|<class|jsonargparse"
)
"""What no sentence for a user holds."""


@dataclass(frozen=True)
class BadInput:
    """A command line that somebody could give.

    Attributes:
        group: Its row of the table, e.g. ``keys: SiD``.
        name: What is wrong with it; unique within the group.
        words: Writes what it needs into an empty folder, and gives the words after ``fastgen``.
        expected: ``refuse``, ``ok``, or ``either`` where both are good and only a traceback is not.
    """

    group: str
    name: str
    words: Callable[[Path], Sequence[str]]
    expected: Expected = "refuse"

    @property
    def key(self) -> str:
        """How results and the list of what may be accepted call it."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        key: Of the input.
        expected: Of the input.
        code: Exit code; ``None`` if it was stopped.
        said: The sentence on standard error, or the end of what it printed.
        kind: ``refused``, ``accepted``, ``warned`` (accepted, but the run says what is wrong), ``traceback``,
            ``jargon`` (refused in words that are no sentence) or ``stopped`` (out of time or killed).
    """

    key: str
    expected: Expected
    code: int | None
    said: str
    kind: str


def sentences(errors: str) -> list[str]:
    """What the command says on standard error for the user."""
    return [line.split(": ", 1)[1] for line in errors.splitlines() if re.match(r"fastgen( \(rank \d+\))?: ", line)]


def is_sentence(said: str) -> bool:
    """One sentence without the words of a library."""
    ends = re.search(r"[.?!]$", said) and not re.search(r"(?<!e\.g)(?<!i\.e)[.?!] [A-Z]", said)
    return bool(ends) and len(said) < 500 and not JARGON.search(said) and "\x1b" not in said


def judge(key: str, expected: Expected, code: int | None, out: str, errors: str) -> Outcome:
    """What the exit code and the two streams of a command mean."""
    said = sentences(errors)
    last = (errors.strip() or out.strip()).splitlines()[-1:] or [""]
    text = said[0] if said else last[0][-300:]
    if "Traceback (most recent call last)" in errors + out or code == 1:
        kind, text = "traceback", last[0][-300:]
    elif code is None or code < 0:
        kind = "stopped"
    elif code == 0:
        verdict = re.search(r"Health of the run: (?!healthy)(.+)$", errors + out, re.MULTILINE)
        kind, text = ("warned", verdict[1]) if verdict else ("accepted", text)
    elif len(said) == 1 and is_sentence(said[0]):
        kind = "refused"
    else:
        kind = "jargon"
    return Outcome(key, expected, code, text, kind)
