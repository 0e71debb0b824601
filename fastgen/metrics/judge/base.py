"""What a judge of pictures with captions can do: one vector space for both, and names for what is seen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor


class CaptionJudge(FeatureExtractor):
    """An extractor whose features can be compared with captions, and in which attributes can be seen.

    An attribute is something that a caption says or leaves open, such as the colour of the background.
    """

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """The values that can be seen of every attribute; empty if none can be."""
        return {}

    @abstractmethod
    def embed(self, features: Tensor) -> Tensor:
        """Vectors of length one (N, D) of what :meth:`extract` gave, to be compared with those of texts."""

    @abstractmethod
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Vectors of length one (N, D) of captions; that of one does not depend on the others."""

    def seen(self, features: Tensor) -> Tensor:
        """The most probable class of every attribute, (N, A) int64, for features of pictures."""
        return torch.empty(len(features), 0, dtype=torch.int64, device=features.device)

    def numbers(self, said: Sequence[Mapping[str, str]]) -> Tensor:
        """What captions say as classes, (N, A) int64; -1 is left open, and so is what the judge does not know of.

        Raises:
            UserError: If an attribute has a value that the judge was never shown.
        """
        rows = []
        for one in said:
            row = []
            for attribute, values in self.classes.items():
                value = one.get(attribute)
                if value is not None and value not in values:
                    raise UserError(
                        f"{type(self).__name__} knows no {attribute} '{value}'; train its classifiers on the drawings "
                        "that the data module shows."
                    )
                row.append(-1 if value is None else list(values).index(value))
            rows.append(row)
        return torch.tensor(rows, dtype=torch.int64).reshape(len(said), len(self.classes))
