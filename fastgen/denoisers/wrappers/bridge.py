"""Bridge: a denoiser of clean samples along the bridge to a degraded one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.errors import UserError
from fastgen.processes.bridge import BrownianBridge
from fastgen.shapes import expand

SOURCE = "source"
"""The name of the degraded sample x_T among conditions."""


class BridgeCodec(Codec):
    """The codec of the wrapped network, for the degraded samples too."""

    def __init__(self, inner: Codec) -> None:
        super().__init__()
        self.inner = inner

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, x0: Tensor) -> Tensor:
        return self.inner.decode(x0)

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        rest = {name: value for name, value in condition.items() if name != SOURCE}
        encoded = dict(self.inner.encode_condition(rest))
        if SOURCE in condition:
            encoded[SOURCE] = self.inner.encode(condition[SOURCE])
        return encoded


class Bridge(Wrapper):
    """A network along the bridge to ``condition["source"]`` (B, ...), the degraded sample x_T (I2SB, arXiv 2302.05872).

    The network sees ``x_t = y_t + t x_T`` as a clean sample under noise of variance ``V t``. That is what it is where
    the degradation is Gaussian noise of variance V, so there any denoiser is its own bridge, an exact one stays exact
    (``E[x0 | x_t, x_T] = E[x0 | x_t]``), and one trained on images is a good start for every degradation.

    Args:
        network: Builds the network, on any process.
        variance: V, as in :class:`~fastgen.processes.bridge.BrownianBridge`.
    """

    def __init__(self, network: Callable[[], Denoiser], variance: float = 1.0) -> None:
        inner = network()
        super().__init__(inner, BrownianBridge(variance), "x0")
        self.inner = inner

    @property
    def wrapped(self) -> Denoiser:
        return self.inner

    @property
    def feature_path(self) -> str:
        return f"inner.{self.inner.feature_path}"

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        if SOURCE not in condition:
            raise UserError(
                "A Bridge leads from degraded samples, and there are none here; take the data module Degraded, whose "
                "samples 'fastgen predict' restores."
            )
        process = self.inner.process
        rest = {name: value for name, value in condition.items() if name != SOURCE}
        bridged = x_t + expand(t, x_t) * condition[SOURCE].to(x_t.dtype)
        time, other = (None if u is None else process.time_within(self.level(u)) for u in (t, s))
        assert time is not None
        return self.inner(expand(process.alpha(time), bridged) * bridged, time, rest, other).x0

    def level(self, t: Tensor) -> Tensor:
        """The noise level of ``x_t`` as an answer to what the clean sample is: ``sqrt(V t)``."""
        process = self.process
        assert isinstance(process, BrownianBridge)
        return (process.variance * t).sqrt()

    def null_condition(self, condition: Condition) -> Condition:
        rest = {name: value for name, value in condition.items() if name != SOURCE}
        kept = {SOURCE: condition[SOURCE]} if SOURCE in condition else {}
        return {**self.inner.null_condition(rest), **kept}

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        source = torch.zeros(count, *self.sample_shape, device=device)
        return {**self.inner.example_condition(count, device), SOURCE: source}

    def make_codec(self) -> Codec:
        return BridgeCodec(self.inner.make_codec())
