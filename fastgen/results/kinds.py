"""What a number measures and which direction is better; every row of a result file says it of each of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Aspect = Literal["fidelity", "coverage", "judge", "alignment", "other", "bookkeeping"]
"""Of a number: how good single samples are or how close their law is to the reference, how much of the law they reach,
what an external judge says, how close they are to the teacher's of the same noise, something else, or nothing about
the samples (counts, floors, spreads)."""
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Kind:
    """What a number measures.

    Attributes:
        aspect: See ``Aspect``.
        better: The direction in which it improves; ``None`` for neither.
    """

    aspect: Aspect = "other"
    better: Better | None = None


BOOKKEEPING = Kind("bookkeeping")

Kinds = Mapping[str, Kind]
"""Kinds by the name of the number, in the order of the numbers."""


def written(kinds: Kinds) -> dict[str, dict[str, str | None]]:
    """Kinds as a row of a result file holds them."""
    return {name: {"aspect": kind.aspect, "better": kind.better} for name, kind in kinds.items()}


def read(value: Any) -> dict[str, Kind]:
    """Kinds out of a row; what is damaged, or of a later version, is left out."""
    found: dict[str, Kind] = {}
    for name, said in value.items() if isinstance(value, Mapping) else ():
        if isinstance(said, Mapping) and said.get("aspect") in get_args(Aspect):
            better = said.get("better")
            found[str(name)] = Kind(said["aspect"], better if better in get_args(Better) else None)
    return found


def of_aspect(names: Iterable[str], kinds: Kinds, aspect: Aspect) -> list[str]:
    """The names that measure ``aspect``, in order."""
    return [name for name in names if kinds.get(name, Kind()).aspect == aspect]


def ordered(names: Iterable[str], kinds: Kinds) -> list[str]:
    """Names as tables show them: a fidelity number, a coverage number beside it, the others, bookkeeping last."""
    known = list(dict.fromkeys(names))
    fidelity, coverage, *others = (of_aspect(known, kinds, aspect) for aspect in get_args(Aspect))
    return [*fidelity[:1], *coverage[:1], *fidelity[1:], *coverage[1:], *(name for names in others for name in names)]


def headline(names: Iterable[str], kinds: Kinds) -> tuple[str | None, str | None]:
    """The first fidelity and the first coverage metric."""
    known = list(names)
    fidelity, coverage = of_aspect(known, kinds, "fidelity"), of_aspect(known, kinds, "coverage")
    return next(iter(fidelity), None), next(iter(coverage), None)


def without_lone_fidelity(values: Mapping[str, float], kinds: Kinds) -> tuple[dict[str, float], tuple[str, ...]]:
    """The numbers that may be shown, and the names of those that may not.

    A sampler that has collapsed onto one good sample wins every contest of fidelity, so a fidelity number is shown only
    if a coverage number of the same samples stands beside it.
    """
    if of_aspect(values, kinds, "coverage"):
        return dict(values), ()
    lone = tuple(of_aspect(values, kinds, "fidelity"))
    return {name: value for name, value in values.items() if name not in lone}, lone
