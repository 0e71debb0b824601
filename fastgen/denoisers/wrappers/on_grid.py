"""Another network under a grid of times of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.guided import guided
from fastgen.processes import Prediction


class OnGrid(Wrapper):
    """A network that someone else owns, with guidance and the times to call it at; only the times are its own.

    The network is in nobody's state dict twice, and a copy borrows the same network.

    Args:
        network: The lender.
        times: Times of the calls, (steps,).
        guidance: Guidance scale of every call.
    """

    network: Denoiser

    def __init__(self, network: Denoiser, times: Tensor, guidance: float = 1.0) -> None:
        super().__init__(network)
        self.guidance = guidance
        object.__setattr__(self, "network", network)  # no submodule
        self.times = nn.Parameter(times)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGrid:
        return OnGrid(self.network, self.times.detach().clone(), self.guidance)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnGrid:
        """Move with the module but keep the dtype of the times: rounded to bf16 they are other times."""
        times = self.times.detach()
        super()._apply(fn, recurse)
        self.times.data = times.to(self.times.device)
        return self

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition | None = None, s: Tensor | None = None
    ) -> Prediction:
        return guided(self.network, x_t, t, condition or {}, self.guidance)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.forward(x_t, t, condition).value

    @property
    def wrapped(self) -> Denoiser:
        return self.network

    def load_weights(self) -> None:
        """The lender's are its owner's business."""
