"""Operations: how many floating-point operations run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Inside, products, convolutions and attention are counted by torch's own formulas; recomputed ones, too.

    Torch's counter does so for every module, too, with hooks that not every network bears.

    Attributes:
        total: So far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", None)
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=found)
        return found
