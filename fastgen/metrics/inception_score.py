"""How sure a classifier is of each sample, and how many classes it sees in all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.metrics.base import CollectingMetric
from fastgen.randomness import generator


def inception_score(probabilities: Tensor) -> float:
    """``exp(E_x KL(p(y | x) || p(y)))`` of class probabilities (N, K), fp64.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    marginal = probabilities.mean(dim=0)
    conditional = torch.xlogy(probabilities, probabilities).sum(dim=1).mean()
    return float((conditional - torch.xlogy(marginal, marginal).sum()).exp())


class InceptionScore(CollectingMetric):
    """:func:`inception_score`, mean and spread over equally large random parts of the samples; needs no reference.

    Gives ``inception_score`` and ``inception_score_std`` (root mean square deviation, as torch-fidelity has it).
    The score shrinks with the size of a part: 10 parts of 5,000 are the custom. It rewards one perfect image per class,
    so it is no coverage number.

    Args:
        num_features: D.
        classify: Features (N, D) fp32 to logits (N, K).
        splits: Number of parts.
    """

    shows_fidelity = True

    def __init__(self, num_features: int, classify: Callable[[Tensor], Tensor], splits: int = 10) -> None:
        super().__init__(num_features)
        self._classify = (classify,)  # in a tuple: a method of a network is no part of this module
        self.splits = splits

    def compute(self) -> dict[str, float]:
        """``{"inception_score", "inception_score_std"}``."""
        features, _ = self.collected(at_least=self.splits)
        logits = torch.cat([self._classify[0](part.float()) for part in features.split(2048)])
        probabilities = logits.double().softmax(dim=1)
        order = torch.randperm(len(probabilities), generator=generator("inception score"))
        parts = probabilities[order.to(probabilities.device)].tensor_split(self.splits)
        scores = torch.tensor([inception_score(part) for part in parts], dtype=torch.float64)
        return {
            "inception_score": float(scores.mean()),
            "inception_score_std": float(scores.std(correction=0)),
        }
