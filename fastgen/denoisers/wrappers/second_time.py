"""How a network is told where a jump ends: by an input of our own, or as the flow maps of diffusers are told.

Containers of flow maps in diffusers embed the second time by a copy of the network's own embedder of time. A student
that is told in that way has a public pipeline, if there is one of its family; one that has :class:`NoiseAngles` has
none. What they do at first is the teacher's function, and where ``s = t`` it is so bit for bit.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.denoisers.wrappers.added_inputs import SecondTime

if TYPE_CHECKING:
    from fastgen.denoisers.base import Denoiser


class SecondTimeForm(Component, ABC):
    """How the time ``s`` enters a network beside ``t``."""

    @abstractmethod
    def build(self, network: Denoiser) -> SecondTime | CopiedTime:
        """The input for ``network``, which it does not change at first.

        Raises:
            UserError: If the network has no place for it.
        """


@dataclass(frozen=True)
class NoiseAngles(SecondTimeForm):
    """An input of its own sees ``s`` and ``t - s`` as noise angles; its output is added to the embedding of ``t``.

    It fits every network and process, and no pipeline of diffusers.
    """

    def build(self, network: Denoiser) -> SecondTime:
        return network.new_input(SecondTime)


@dataclass(frozen=True)
class GatedTime(SecondTimeForm):
    """``(1 - gate) E(t) + gate E_s(s)``, where E_s begins as a copy of the network's embedder E.

    AnyFlow (Gu et al. 2026, arXiv 2605.13724, gate 0.25), for which Wan has a pipeline in diffusers; the average
    (gate 0.5) is that of HunyuanImage 2.1.

    Args:
        gate: Share of the second time.
    """

    gate: float = 0.25

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "()", gate=self.gate)

    def build(self, network: Denoiser) -> CopiedTime:
        return CopiedTime(network, self.gate)


@dataclass(frozen=True)
class SummedTime(SecondTimeForm):
    """``E(t) + E_s(s)``, where E_s is a copy of the network's embedder E whose last layer begins at 0.

    HunyuanVideo 1.5.
    """

    def build(self, network: Denoiser) -> CopiedTime:
        made = CopiedTime(network, None)
        *_, last = (module for module in made.embedder.modules() if isinstance(module, nn.Linear))
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        return made


class CopiedTime(nn.Module):
    """A second time that is embedded as the first is.

    Args:
        network: Whose embedder of time is copied.
        gate: Share of the second time in the embedding; ``None`` adds it.
    """

    def __init__(self, network: Denoiser, gate: float | None) -> None:
        super().__init__()
        network.backbone.time_features(torch.zeros(1))  # refused here, if it has none
        self.embedder = without_hooks(network.time_embedder).requires_grad_(True)
        if network.backbone is not network:  # what an adapter owns is not in the dtype of the shared weights
            self.embedder.float()
        self.gate = gate

    def into(self, embedding: Tensor, network: Denoiser, t: Tensor, s: Tensor) -> Tensor:
        """The embedding (B, width) of both times, from that of ``t`` (B,) and ``s`` (B,)."""
        own = self.embedder(network.backbone.time_features(s)).to(embedding.dtype)
        return embedding + own if self.gate is None else (1.0 - self.gate) * embedding + self.gate * own


def without_hooks(module: nn.Module) -> nn.Module:
    """A copy that does nothing beside its own work: adapters of the original are none of its business."""
    kept = [(part, part._forward_hooks, part._forward_pre_hooks) for part in module.modules()]
    try:
        for part, *_ in kept:
            part._forward_hooks, part._forward_pre_hooks = OrderedDict(), OrderedDict()
        return copy.deepcopy(module)
    finally:
        for part, after, before in kept:
            part._forward_hooks, part._forward_pre_hooks = after, before
