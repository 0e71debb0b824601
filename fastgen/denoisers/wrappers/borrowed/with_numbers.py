"""A network that someone else owns, with a few numbers of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.guided import guided
from fastgen.processes import Prediction


class WithNumbers(Wrapper):
    """A frozen, guided network of another owner beside the numbers by which a learned solver calls it.

    The network is in nobody's state dict twice, and a copy borrows the same network. What the numbers mean is the
    solver's.

    Args:
        network: The lender.
        numbers: The numbers by name; they keep their dtype when the module moves.
        guidance: Guidance scale of every call.
    """

    network: Denoiser

    def __init__(self, network: Denoiser, numbers: dict[str, Tensor], guidance: float = 1.0) -> None:
        super().__init__(network)
        self.guidance = guidance
        object.__setattr__(self, "network", network)  # no submodule
        self.numbers = nn.ParameterDict({name: nn.Parameter(value) for name, value in numbers.items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> WithNumbers:
        copies = {name: value.detach().clone() for name, value in self.numbers.items()}
        return WithNumbers(self.network, copies, self.guidance)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WithNumbers:
        """Move with the module but keep the dtype: rounded to bf16 they are other numbers."""
        kept = {name: value.detach() for name, value in self.numbers.items()}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            self.numbers[name].data = value.to(self.numbers[name].device)
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
