"""Networks that extras ask but never train: neither saved nor cast, and wherever the samples are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from fastgen.precision import built_in_fp32

Network = TypeVar("Network", bound=nn.Module)


def keep_frozen(owner: nn.Module, name: str, factory: Callable[[], Network]) -> None:
    """Build ``owner.<name>`` in fp32, frozen, as no submodule: no checkpoint holds it and no cast reaches it."""
    with built_in_fp32():
        network = factory().requires_grad_(False).eval()
    object.__setattr__(owner, name, network)


def beside(network: Network, samples: Tensor) -> Network:
    """The network, on the device of the samples that it is about to see."""
    if next(network.parameters(), samples).device != samples.device:
        network.to(samples.device)
    return network
