"""What is said of a picture: in several wordings, never all of it always; and what a caption says, read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastgen.data.emoji.pictures import BACKGROUNDS, POSITIONS, SIZES

T = TypeVar("T")

SIZE_WORDS: dict[str, tuple[str, ...]] = {"large": ("large", "big", "huge"), "small": ("small", "little", "tiny")}
POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "middle": ("in the middle", "in the center", "in the centre"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "near the top", "on the top side"),
    "bottom": ("at the bottom", "near the bottom", "on the bottom side"),
}
BACKGROUND_WORDS = ("on a {} background", "on {}", "with a {} background", "in front of {}")
SPELLINGS: dict[str, tuple[str, ...]] = {"grey": ("grey", "gray")}
SENTENCES = (
    (" ", "what", "where", "ground"),
    (" ", "what", "ground", "where"),
    (", ", "name", "size", "where", "ground"),
)
"""What stands between the parts, and their order; what is not said leaves no trace."""
PLURAL = re.compile(".*[^su]s")
"""Names that take no article."""


@dataclass(frozen=True)
class Picture:
    """What a picture shows, or what a caption says of one; ``None`` is left open.

    Attributes:
        name: Of the drawing.
        background: One of ``BACKGROUNDS``.
        size: One of ``SIZES``.
        position: One of ``POSITIONS``.
    """

    name: str | None
    background: str | None = None
    size: str | None = None
    position: str | None = None

    def holds_of(self, other: Picture) -> bool:
        """Whether all that is said here is true of ``other``."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(said is None or said == true for said, true in pairs)


def pick(words: Sequence[T], number: float) -> T:
    """The word that a number in [0, 1) chooses."""
    return words[int(number * len(words))]


def caption(said: Picture, wording: Sequence[float]) -> str:
    """A caption that says this and nothing else.

    Args:
        said: What is said; the name always is.
        wording: Five numbers in [0, 1) that choose the words for sentence, size, position, background, its spelling.

    Raises:
        ValueError: If there is no name.
    """
    if said.name is None:
        raise ValueError("a caption names a drawing")
    sentence, size, where, ground, spelling = wording
    parts = {"name": said.name, "what": said.name}
    if said.size is not None:
        parts["size"] = pick(SIZE_WORDS[said.size], size)
        parts["what"] = f"{parts['size']} {said.name}"
    if said.position is not None:
        parts["where"] = pick(POSITION_WORDS[said.position], where)
    if said.background is not None:
        spelled = pick(SPELLINGS.get(said.background, (said.background,)), spelling)
        parts["ground"] = pick(BACKGROUND_WORDS, ground).format(spelled)
    if not PLURAL.fullmatch(said.name):
        vowel = parts["what"][0] in "aeiou" and not parts["what"].startswith("uni")
        parts["what"] = f"{'an' if vowel else 'a'} {parts['what']}"
    between, *order = pick(SENTENCES, sentence)
    return between.join(parts[part] for part in order if part in parts)


def words_of(names: Sequence[str]) -> list[str]:
    """Every word that a caption of these names can have, sorted."""
    texts = [*names, *BACKGROUNDS, *BACKGROUND_WORDS, *(word for several in SPELLINGS.values() for word in several)]
    texts += [word for table in (SIZE_WORDS, POSITION_WORDS) for several in table.values() for word in several]
    return sorted(
        {word for text in [*texts, "a an the ,"] for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9{}]+", text)}
    )


def _said_of(text: str, table: Mapping[str, Sequence[str]]) -> str | None:
    """The value of which a word stands in the text."""
    words = set(re.findall(r"[a-z]+", text))
    return next((value for value, several in table.items() if words & set(several)), None)


def read(text: str, names: Sequence[str]) -> Picture:
    """What a caption says, in these words or nearly so.

    Args:
        text: Of a person or of :func:`caption`.
        names: Of the drawings; of several in a text the longest is meant.
    """
    text = " ".join(text.lower().split())
    padded = re.sub(r"[^a-z0-9 -]", " ", text)
    there = [name for name in names if re.search(rf"(?<![a-z-]){re.escape(name)}(?![a-z-])", padded)]
    name = max(there, key=len, default=None)
    rest = padded.replace(name, " ", 1) if name else padded
    places = {value: (value, *(("center", "centre") if value == "middle" else ())) for value in POSITIONS}
    colours = {value: SPELLINGS.get(value, (value,)) for value in BACKGROUNDS}
    sizes = {value: SIZE_WORDS[value] for value in SIZES}
    return Picture(name, _said_of(rest, colours), _said_of(rest, sizes), _said_of(rest, places))
