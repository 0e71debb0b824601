"""Metrics of pictures and their captions: is the caption found, is it true, and does what it leaves open vary?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.errors import UserError
from fastgen.metrics.judge.attributes import COMMAND
from fastgen.metrics.judge.base import CaptionJudge
from fastgen.results.kinds import BOOKKEEPING, Kind, Kinds


@dataclass(frozen=True)
class Captioned:
    """Pictures as a judge sees them, with what was asked for.

    Attributes:
        pictures: Vectors of length one, (N, D) fp64.
        texts: Those of the captions, (N, D) fp64.
        caption: (N,) int64, equal where captions are equal; their order says nothing of the texts.
        said: What captions say, (N, A) int64; -1 is left open.
        seen: What the judge sees, (N, A) int64.
        attributes: Names of the A attributes.
    """

    pictures: Tensor
    texts: Tensor
    caption: Tensor
    said: Tensor
    seen: Tensor
    attributes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.caption)

    def of(self, attribute: str) -> tuple[Tensor, Tensor]:
        """What is said and what is seen of an attribute, (N,) each."""
        column = self.attributes.index(attribute)
        return self.said[:, column], self.seen[:, column]


@dataclass(frozen=True)
class CaptionMetric(Component, ABC):
    """A metric of pictures and captions through a judge, by class path in ``EmojiMetrics.captions``.

    Subclasses are frozen dataclasses of their settings.
    """

    @property
    @abstractmethod
    def numbers(self) -> Kinds:
        """The numbers that the metric may give, and what each measures; a class attribute in subclasses."""

    @abstractmethod
    def measure(self, samples: Captioned) -> dict[str, float]:
        """The numbers over all samples of all ranks."""

    def check(self, judge: CaptionJudge) -> None:
        """Called before anything is sampled, with the judge in memory.

        Raises:
            UserError: If the judge does not suit the metric.
        """


def contradicts(said: Tensor, others: Tensor) -> Tensor:
    """Whether no picture can show what is said (A,) and what each of the others (M, A) says: (M,) bool."""
    return ((others != said) & (others >= 0) & (said >= 0)).any(dim=1)


def retrieved(samples: Captioned, candidates: int) -> tuple[Tensor, Tensor]:
    """Which pictures are nearer to their caption than to any of its rivals, and how many candidates there were.

    Rivals are captions of other samples, each once, that contradict the own caption (if nothing is known of what
    captions say: that are other texts), so that no picture has two right answers. Those ``candidates - 1`` are taken
    that follow in an order which depends on neither the samples nor the ranks.

    Returns:
        (N,) bool and (N,) int64.
    """
    unique, which = torch.unique(samples.caption, return_inverse=True)
    first = torch.full_like(unique, len(which)).scatter_reduce(
        0, which, torch.arange(len(which), device=which.device), "amin"
    )
    texts, said = samples.texts[first], samples.said[first]
    known = bool((said >= 0).any())
    found, among = torch.zeros_like(which, dtype=torch.bool), torch.zeros_like(which)
    for number in range(len(unique)):
        others = (torch.arange(1, len(unique), device=which.device) + number) % len(unique)
        if known:
            others = others[contradicts(said[number], said[others])]
        rivals, own = others[: candidates - 1], which == number
        among[own] = 1 + len(rivals)
        nearness = samples.pictures[own] @ texts[rivals].T
        rival = nearness.amax(1) if len(rivals) else nearness.new_full((len(nearness),), -torch.inf)
        found[own] = samples.pictures[own] @ texts[number] > rival
    return found, among


@dataclass(frozen=True)
class CaptionRetrieval(CaptionMetric):
    """How often a picture is nearest to its own caption among many (:func:`retrieved`), and how near it is.

    Gives ``retrieval``, ``caption_cosine`` (the mean over all pictures) and ``retrieval_candidates``, the mean number
    of captions: with fewer captions than asked for the task is easier.

    Args:
        candidates: Captions among which the own one has to be found.
    """

    candidates: int = 100
    numbers = {
        "retrieval": Kind("fidelity", "higher"),
        "caption_cosine": Kind("fidelity", "higher"),
        "retrieval_candidates": BOOKKEEPING,
    }

    def __post_init__(self) -> None:
        checks.whole(self, 2, candidates=self.candidates)

    def measure(self, samples: Captioned) -> dict[str, float]:
        """``{"retrieval", "caption_cosine", "retrieval_candidates"}``."""
        found, among = retrieved(samples, self.candidates)
        return {
            "retrieval": float(found.double().mean()),
            "caption_cosine": float((samples.pictures * samples.texts).sum(1).mean()),
            "retrieval_candidates": float(among.double().mean()),
        }


def check_attributes(metric: CaptionMetric, attributes: Sequence[str], judge: CaptionJudge) -> None:
    """Refuse a judge that cannot see an attribute.

    Raises:
        UserError: If one is missing.
    """
    for attribute in attributes:
        if attribute not in judge.classes:
            known = f"sees {', '.join(judge.classes)}" if judge.classes else f"has no classifiers; run '{COMMAND}'"
            asks = f"{type(metric).__name__} asks for the attribute '{attribute}'"
            raise UserError(f"{asks}, but {type(judge).__name__} {known}.")


@dataclass(frozen=True)
class AttributeAccuracy(CaptionMetric):
    """How often the judge sees what the caption says: gives ``<attribute>_accuracy`` over the captions that say it.

    ``caption_accuracy`` is the share of pictures of which all that is said is seen, ``combination_accuracy`` the same
    over the captions that leave nothing open. Those of held-out samples name a combination that training never showed,
    so it tells a student that combines from one that recalls, beside its teacher's. A sampler with one picture per
    caption gets 1: read it beside a coverage number.

    Args:
        attributes: Whose.
    """

    attributes: tuple[str, ...] = ("name", "background", "size", "position")

    def __post_init__(self) -> None:
        checks.not_empty(self, attributes=self.attributes)

    @property
    def numbers(self) -> Kinds:
        """One per attribute, and that of everything."""
        names = [f"{attribute}_accuracy" for attribute in self.attributes]
        return dict.fromkeys(["caption_accuracy", "combination_accuracy", *names], Kind("fidelity", "higher"))

    def check(self, judge: CaptionJudge) -> None:
        """The judge must see them."""
        check_attributes(self, self.attributes, judge)

    def measure(self, samples: Captioned) -> dict[str, float]:
        """``{"caption_accuracy", "name_accuracy", ...}``; nothing where no caption says anything."""
        found: dict[str, float] = {}
        anything, right = (torch.zeros_like(samples.caption, dtype=torch.bool) for _ in range(2))
        right = ~right
        for attribute in self.attributes:
            said, seen = samples.of(attribute)
            tells = said >= 0
            anything |= tells
            right &= ~tells | (seen == said)
            if tells.any():
                found[f"{attribute}_accuracy"] = float((seen == said)[tells].double().mean())
        if not found:
            return {}
        everything = torch.stack([samples.of(attribute)[0] >= 0 for attribute in self.attributes]).all(0)
        if everything.any():
            found["combination_accuracy"] = float(right[everything].double().mean())
        return {"caption_accuracy": float(right[anything].double().mean()), **found}


def difference_rate(values: Tensor, group: Tensor) -> float | None:
    """How often two samples of one group differ: the mean over groups of the share of differing pairs, unbiased.

    Of a group of n in which class k occurs n_k times that is ``(n^2 - sum n_k^2) / (n (n - 1))``, the estimate without
    bias of ``1 - sum p_k^2`` (Simpson 1949, doi 10.1038/163688a0), from two samples on.

    Args:
        values: Classes (N,) int64.
        group: (N,) int64.

    Returns:
        In [0, 1], or ``None`` if no group has two samples.
    """
    rates = []
    for one in group.unique():
        own = values[group == one]
        if (count := len(own)) > 1:
            same = torch.bincount(own).double().square().sum()
            rates.append(float((count**2 - same) / (count * (count - 1))))
    return sum(rates) / len(rates) if rates else None


@dataclass(frozen=True)
class UnsaidDiversity(CaptionMetric):
    """How often two samples of one caption differ in what it leaves open (:func:`difference_rate`).

    Gives ``<attribute>_diversity`` over the captions that leave the attribute open, and ``unsaid_diversity``, the mean
    over the attributes. A sampler that has collapsed onto one picture per caption has 0, however right its pictures
    are; real pictures have 1 - 1/K of K values that are equally frequent. The data module must repeat captions, as
    ``Emoji(repeats=2)`` does; without repeats there is no number.

    Args:
        attributes: Whose.
    """

    attributes: tuple[str, ...] = ("background", "size", "position")

    def __post_init__(self) -> None:
        checks.not_empty(self, attributes=self.attributes)

    @property
    def numbers(self) -> Kinds:
        """One per attribute, and their mean."""
        names = [f"{attribute}_diversity" for attribute in self.attributes]
        return dict.fromkeys(["unsaid_diversity", *names], Kind("coverage", "higher"))

    def check(self, judge: CaptionJudge) -> None:
        """The judge must see them."""
        check_attributes(self, self.attributes, judge)

    def measure(self, samples: Captioned) -> dict[str, float]:
        """``{"unsaid_diversity", "background_diversity", ...}``; nothing where no caption comes twice."""
        found: dict[str, float] = {}
        for attribute in self.attributes:
            said, seen = samples.of(attribute)
            rate = difference_rate(seen[said < 0], samples.caption[said < 0])
            if rate is not None:
                found[f"{attribute}_diversity"] = rate
        return {"unsaid_diversity": sum(found.values()) / len(found), **found} if found else {}
