"""Several networks as one, each for a range of noise levels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition, select
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.second_time import NoiseAngles, SecondTimeForm
from fastgen.errors import UserError


class Experts(Wrapper):
    """Answers every sample by the network of its noise level, as the two transformers of Wan 2.2 do.

    Args:
        networks: From the noisiest range to the cleanest; all on one process.
        boundaries: Decreasing times, one less than networks. Times above the first belong to the first network, the
            first itself and what lies above the second to the second network, and so on.
    """

    def __init__(self, networks: Sequence[Denoiser], boundaries: Sequence[float]) -> None:
        if len(networks) != len(boundaries) + 1 or any(a <= b for a, b in pairwise(boundaries)):
            raise UserError(
                f"{len(networks)} experts need {len(networks) - 1} decreasing boundaries, got {list(boundaries)}."
            )
        super().__init__(networks[0])
        self.networks = nn.ModuleList(networks)
        self.boundaries = list(boundaries)

    @classmethod
    def copies(cls, network: Denoiser, boundaries: Sequence[float]) -> Experts:
        """Experts that all begin as ``network``; adapters share the network that they are on."""
        return cls([network, *(copy.deepcopy(network) for _ in boundaries)], boundaries)

    def expert(self, index: int) -> Denoiser:
        """The network of a range; 0 is the noisiest."""
        return cast(Denoiser, self.networks[index])

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        chosen = sum((t <= boundary).long() for boundary in self.boundaries) + torch.zeros_like(t, dtype=torch.int64)
        answer = torch.zeros_like(x_t)
        for index in chosen.unique().tolist():
            rows = (chosen == index).nonzero()[:, 0]
            asked = x_t[rows], t[rows], select(condition, rows), None if s is None else s[rows]
            value = self.expert(index)(*asked).as_kind(self.prediction)
            answer = answer.to(value.dtype).index_copy(0, rows, value)
        return answer

    @property
    def wrapped(self) -> Denoiser:
        """The first network, which is like the others in all but its weights."""
        return self.expert(0)

    def add_second_time(self, form: SecondTimeForm = NoiseAngles()) -> None:
        for index in range(len(self.networks)):
            self.expert(index).add_second_time(form)

    def add_guidance_input(self) -> None:
        for index in range(len(self.networks)):
            self.expert(index).add_guidance_input()

    def load_weights(self) -> None:
        for index in range(len(self.networks)):
            self.expert(index).load_weights()
