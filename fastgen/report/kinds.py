"""What a metric's name says: whether it measures fidelity or coverage, and which direction is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Aspect = Literal["fidelity", "coverage", "judge", "other", "bookkeeping"]
Better = Literal["low", "high"]

KINDS: tuple[tuple[str, Aspect, Better | None], ...] = (
    (r"(^|_)(geneval|dpg|vbench|hpsv3|vqascore)", "judge", "high"),
    (r"count$|(?<!over)_floor$|^floor$|^step|_std$", "bookkeeping", None),
    (r"recall|coverage|modes_found|vendi|diversity|pairwise_lpips", "coverage", "high"),
    (r"mode_kl", "coverage", "low"),
    (r"frechet|(^|_)fid|(^|_)fd_|(^|_)kid|kernel|mmd|wasserstein|(^|_)nll$", "fidelity", "low"),
    (r"precision|density|inception|high_quality|accuracy|clip|hps|pick|aesthetic", "fidelity", "high"),
    (r"duplicate|repeated|memori|teacher_lpips", "other", "low"),
    (r"teacher_psnr", "other", "high"),
)
"""Patterns of names, the first that matches counts."""


def kind_of(name: str) -> tuple[Aspect, Better | None]:
    """What ``name`` measures and which direction is better (``None``: neither)."""
    for pattern, aspect, better in KINDS:
        if re.search(pattern, name):
            return aspect, better
    return "other", None


def of_aspect(names: Iterable[str], aspect: Aspect) -> list[str]:
    """The names that measure ``aspect``, in order."""
    return [name for name in names if kind_of(name)[0] == aspect]


def ordered(names: Iterable[str]) -> list[str]:
    """Names as tables show them: a fidelity number, a coverage number beside it, the others, bookkeeping last."""
    known = list(dict.fromkeys(names))
    fidelity, coverage = of_aspect(known, "fidelity"), of_aspect(known, "coverage")
    rest = [name for aspect in ("judge", "other", "bookkeeping") for name in of_aspect(known, aspect)]  # type: ignore[arg-type]
    return [*fidelity[:1], *coverage[:1], *fidelity[1:], *coverage[1:], *rest]


def headline(names: Iterable[str]) -> tuple[str | None, str | None]:
    """The first fidelity and the first coverage metric."""
    known = list(names)
    return next(iter(of_aspect(known, "fidelity")), None), next(iter(of_aspect(known, "coverage")), None)


def without_lone_fidelity(values: dict[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The numbers that may be shown, and the names of those that may not.

    A sampler that has collapsed onto one good sample wins every contest of fidelity, so a fidelity number is shown only
    if a coverage number of the same samples stands beside it.
    """
    if of_aspect(values, "coverage"):
        return values, ()
    lone = tuple(of_aspect(values, "fidelity"))
    return {name: value for name, value in values.items() if name not in lone}, lone
