"""Several networks as one, each for a part of the conditions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition, select
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.second_time import NoiseAngles, SecondTimeForm
from fastgen.errors import UserError


def pooled(condition: Condition) -> Tensor | None:
    """A vector (B, D) of a prompt: its pooled embedding if the condition has one, else the mean over its tokens."""
    vectors = {name: value for name, value in condition.items() if value.is_floating_point() and "null" not in name}
    found = next((value for value in vectors.values() if value.ndim == 2), None)
    return found if found is not None else next((v.mean(1) for v in vectors.values() if v.ndim == 3), None)


class Router(Component, ABC):
    """Which of several networks knows a condition."""

    @abstractmethod
    def count(self, network: Denoiser) -> int:
        """The number of networks like ``network``.

        Raises:
            UserError: If its conditions cannot be parted like that.
        """

    def anchors(self, codec: Codec) -> Tensor | None:
        """What conditions are compared with, (K, D), if they are."""
        return None

    @abstractmethod
    def route(self, condition: Condition, classes: int, anchors: Tensor | None) -> Tensor:
        """The index of the network of each sample, (B,)."""


@dataclass(frozen=True)
class LabelRouter(Router):
    """Labels in blocks of equal size, one after the other, e.g. 250 classes of ImageNet for each of four.

    Args:
        parts: Number of blocks.
    """

    parts: int = 4

    def __post_init__(self) -> None:
        checks.whole(self, 2, parts=self.parts)

    def count(self, network: Denoiser) -> int:
        if network.num_classes < self.parts:
            raise UserError(
                f"LabelRouter has {self.parts} parts, but the network knows {network.num_classes} labels; give fewer "
                "parts, or a PromptRouter for prompts."
            )
        return self.parts

    def route(self, condition: Condition, classes: int, anchors: Tensor | None) -> Tensor:
        return (condition["label"].long() * self.parts // classes).clamp(max=self.parts - 1)


@dataclass(frozen=True)
class PromptRouter(Router):
    """Prompts by the nearest of some others: the cosine of their pooled embeddings.

    Args:
        prompts: One for each network, e.g. ``[a person, an animal, a landscape, an object]``.
    """

    prompts: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.prompts) < 2:
            raise UserError("PromptRouter parts prompts by those that you give; give two or more as 'prompts'.")

    def count(self, network: Denoiser) -> int:
        if not network.takes_prompts:
            raise UserError(f"PromptRouter parts prompts, and {type(network).__name__} takes none; give a LabelRouter.")
        return len(self.prompts)

    def anchors(self, codec: Codec) -> Tensor | None:
        return pooled(codec.encode_condition({"prompt": list(self.prompts)}))

    def route(self, condition: Condition, classes: int, anchors: Tensor | None) -> Tensor:
        found = pooled(condition)
        assert found is not None and anchors is not None  # of prompts there is an embedding
        unit, others = (nn.functional.normalize(v.float(), dim=1) for v in (found, anchors.to(found.device)))
        return (unit @ others.T).argmax(1)


class Routed(Wrapper):
    """Answers every sample by the network that knows its condition.

    Args:
        networks: By number; all on one process.
        router: Who knows what.
        anchors: What the router compares conditions with.
    """

    anchors: Tensor | None

    def __init__(self, networks: Sequence[Denoiser], router: Router, anchors: Tensor | None = None) -> None:
        super().__init__(networks[0])
        self.networks = nn.ModuleList(networks)
        self.router = router
        self.register_buffer("anchors", anchors, persistent=False)  # a function of the config

    @classmethod
    def copies(cls, network: Denoiser, router: Router, codec: Codec) -> Routed:
        """Networks that all begin as ``network``; adapters share the network that they are on."""
        further = router.count(network) - 1
        return cls([network, *(copy.deepcopy(network) for _ in range(further))], router, router.anchors(codec))

    def part(self, index: int) -> Denoiser:
        """The network of a part of the conditions."""
        return cast(Denoiser, self.networks[index])

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        chosen = self.router.route(condition, self.num_classes, self.anchors)
        answer = torch.zeros_like(x_t)
        for index in chosen.unique().tolist():
            rows = (chosen == index).nonzero()[:, 0]
            asked = x_t[rows], t[rows], select(condition, rows), None if s is None else s[rows]
            value = self.part(index)(*asked).as_kind(self.prediction)
            answer = answer.to(value.dtype).index_copy(0, rows, value)
        return answer

    @property
    def wrapped(self) -> Denoiser:
        """The first network, which is like the others in all but its weights."""
        return self.part(0)

    def add_second_time(self, form: SecondTimeForm = NoiseAngles()) -> None:
        for index in range(len(self.networks)):
            self.part(index).add_second_time(form)

    def add_guidance_input(self) -> None:
        for index in range(len(self.networks)):
            self.part(index).add_guidance_input()

    def load_weights(self) -> None:
        for index in range(len(self.networks)):
            self.part(index).load_weights()
