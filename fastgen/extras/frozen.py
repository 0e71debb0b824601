"""Networks that extras ask but never train: neither saved nor cast, and wherever the samples are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgen.denoisers.base import Codec
from fastgen.precision import built_in_fp32
from fastgen.processes.prediction import at_least_float32

Network = TypeVar("Network", bound=nn.Module)


def keep_frozen(owner: nn.Module, name: str, factory: Callable[[], Network]) -> None:
    """Build ``owner.<name>`` in fp32, frozen, as no submodule: no checkpoint holds it and no cast reaches it."""
    with built_in_fp32():
        network = factory().requires_grad_(False).eval()
    object.__setattr__(owner, name, network)


@torch.no_grad()
def rewards_of(judge: nn.Module, codec: Codec, x0: Tensor, condition: Mapping[str, Any]) -> Tensor:
    """What a frozen judge of decoded samples says of x0 (B, ...), (B,); ``condition`` is as the data module gave it."""
    with torch.autocast(x0.device.type, enabled=False):
        judge, samples = beside(judge, x0), at_least_float32(codec.decode(x0.detach()))
        rewards: Tensor = judge(samples.to(next(judge.parameters(), samples).dtype), condition)
        return rewards


def beside(network: Network, samples: Tensor) -> Network:
    """The network, on the device of the samples that it is about to see."""
    if next(network.parameters(), samples).device != samples.device:
        network.to(samples.device)
    return network
