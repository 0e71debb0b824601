"""How sure a classifier is of each sample, and how many classes it sees in all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.samples.feature_metric import FeatureMetric, Features, FeatureSpace
from fastgen.randomness import generator
from fastgen.results.kinds import BOOKKEEPING, Kind


def inception_score(probabilities: Tensor) -> float:
    """``exp(E_x KL(p(y | x) || p(y)))`` of class probabilities (N, K), fp64.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    marginal = probabilities.mean(dim=0)
    conditional = torch.xlogy(probabilities, probabilities).sum(dim=1).mean()
    return float((conditional - torch.xlogy(marginal, marginal).sum()).exp())


@dataclass(frozen=True)
class InceptionScore(FeatureMetric):
    """:func:`inception_score`, mean and spread over equally large random parts of the samples; needs no reference.

    Gives ``inception_score`` and ``inception_score_std`` (root mean square deviation, as torch-fidelity has it).
    The score shrinks with the size of a part: 10 parts of 5,000 are the custom. It rewards one perfect image per class,
    so it is no coverage number.

    Args:
        splits: Number of parts.
    """

    splits: int = 10
    numbers = {"inception_score": Kind("fidelity", "higher"), "inception_score_std": BOOKKEEPING}
    needs_reference = False

    def __post_init__(self) -> None:
        checks.whole(self, splits=self.splits)

    @property
    def least(self) -> int:
        """One sample in every part."""
        return self.splits

    def check(self, space: FeatureSpace) -> None:
        """The extractor must be a classifier."""
        if space.logits(torch.zeros(1, space.num_features, device=getattr(space, "device", None))) is None:
            raise UserError(
                f"The inception score needs a classifier, and {type(space).__name__} is none; give another extractor, "
                "or remove InceptionScore."
            )

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """``{"inception_score", "inception_score_std"}``."""
        probabilities = samples.logits().double().softmax(dim=1)
        order = torch.randperm(len(probabilities), generator=generator("inception score"))
        parts = probabilities[order.to(probabilities.device)].tensor_split(self.splits)
        scores = torch.tensor([inception_score(part) for part in parts], dtype=torch.float64)
        return {
            "inception_score": float(scores.mean()),
            "inception_score_std": float(scores.std(correction=0)),
        }
