"""LoRaD: roles that turn the weights of the shared network, by angles of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser, Adapter, Change
from fastgen.errors import UserError


def rotated(weight: Tensor, angles: Tensor) -> Tensor:
    """``weight`` (out, in) with each pair of neighbouring columns turned by ``angles`` (out, in // 2), row by row.

    ``w_2i cos - w_2i+1 sin`` and ``w_2i sin + w_2i+1 cos``: the length of every pair stays. A last column without a
    neighbour stays as it is.
    """
    count = 2 * angles.shape[1]
    first, second = weight[:, 0:count:2], weight[:, 1:count:2]
    cos, sin = angles.cos(), angles.sin()
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=2).flatten(1)
    return torch.cat([pairs, weight[:, count:]], dim=1)


class Rotation(Change):
    """A linear layer with its weight turned by angles ``a b``, less the layer; no change at first.

    Args:
        layer: The layer that it belongs to, which stays its owner's.
        rank: Rank of the angles.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not a submodule
        where: dict[str, Any] = {"device": layer.weight.device, "dtype": torch.float32}
        self.a = nn.Parameter(torch.zeros(layer.out_features, rank, **where))
        self.b = nn.Parameter(torch.empty(rank, layer.in_features // 2, **where))
        nn.init.xavier_uniform_(self.b)

    def angles(self) -> Tensor:
        """The angles (out, in // 2) in [-pi, pi)."""
        return torch.remainder(self.a @ self.b + math.pi, 2.0 * math.pi) - math.pi

    def change(self) -> Tensor:
        weight = self.__dict__["layer"].weight.detach().to(self.a.dtype)
        return rotated(weight, self.angles()) - weight

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.dtype.itemsize < self.a.dtype.itemsize else x.to(self.a.dtype)
        return F.linear(x, self.change().to(x.dtype))

    def __deepcopy__(self, memo: dict[int, Any]) -> Rotation:
        layer = self.__dict__["layer"]
        duplicate = Rotation(layer, self.a.shape[1])
        for own, other in ((self.a, duplicate.a), (self.b, duplicate.b)):
            other.data = own.detach().clone()
            other.requires_grad_(own.requires_grad)
        return duplicate.train(self.training)


@dataclass(frozen=True)
class LoRaD(Adapter):
    """Low-rank rotations of weights (WaDi, arXiv 2603.08258; github.com/gudaochangsheng/WaDi).

    Distilled weights differ from the teacher's in direction far more than in length, so directions alone are learned.
    Convolutions stay as they are. Beside :class:`LoRA` in every use: one shared network, merged on export.

    Args:
        rank: Rank of the angles of a layer.
        layers: One or more patterns of module paths; the default is what lies inside the blocks of diffusers' networks.
        without: Patterns of layers among these that stay.
    """

    rank: int = 256
    layers: Sequence[str] | str = "*_block*"
    without: Sequence[str] | str = ()

    def __post_init__(self) -> None:
        checks.whole(self, rank=self.rank)
        checks.not_empty(self, layers=self.layers)

    def attach(self, base: Denoiser) -> AdaptedDenoiser:
        """The role on ``base``.

        Raises:
            UserError: If a pattern fits no linear layer, or none is left.
        """
        possible = {
            path: module
            for path, module in base.named_modules()
            if isinstance(module, nn.Linear) and module.in_features > 1
        }
        wanted, unwanted = ([p] if isinstance(p, str) else list(p) for p in (self.layers, self.without))
        for pattern in wanted:
            if not any(fnmatchcase(path, pattern) for path in possible):
                raise UserError(
                    f"LoRaD: '{pattern}' fits no linear layer of {type(base).__name__}; its layers are named like "
                    f"{', '.join(repr(path) for path in list(possible)[:3])}. Say which in layers."
                )
        changes: dict[str, Change] = {
            path: Rotation(layer, self.rank)
            for path, layer in possible.items()
            if any(fnmatchcase(path, p) for p in wanted) and not any(fnmatchcase(path, p) for p in unwanted)
        }
        if not changes:
            raise UserError("LoRaD: 'without' leaves no layer to turn; remove some of its patterns.")
        return AdaptedDenoiser(base, changes)
