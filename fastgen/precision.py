"""What the trainer's precision leaves alone: in bf16, of which 0.4 % is the smallest change, small steps vanish."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor, nn

from fastgen.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


class KeepsPrecision(nn.Module):
    """A module that a cast to a lower precision leaves alone."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype.itemsize < tensor.dtype.itemsize else moved

        return super()._apply(move, recurse)


class Averages(KeepsPrecision, nn.ModuleDict):
    """Networks by name."""


def at_least_float32(module: Module) -> Module:
    """Raise what is stored in a lower precision to fp32, in place."""

    def raised(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor

    return module._apply(raised)


@contextmanager
def built_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside, new weights are of ``dtype``, whatever the trainer's precision made torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def built_in_fp32() -> AbstractContextManager[None]:
    """Inside, new weights are fp32."""
    return built_in(torch.float32)


def built_to_learn() -> AbstractContextManager[None]:
    """Inside, new weights are fp32, or fp64 if that is the trainer's precision."""
    return built_in(torch.promote_types(torch.get_default_dtype(), torch.float32))


class FrozenInBFloat16(HalfPrecision):
    """``bf16-true`` for a method: frozen networks are stored in bf16; what learns is fp32 and computes in bf16.

    Data stay as exact as they are. Adapters compute in the precision of the network that they change and need no
    autocast; whole networks compute under it.

    Args:
        device: Type of the device, e.g. ``cuda``.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-true")
        self.device = device
        self.autocast = True

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast all but what the method's roles train."""
        trained: list[nn.Module] = [part for parts in module.all_trained_modules().values() for part in parts]  # type: ignore[operator]
        self.autocast = not all(isinstance(part, KeepsPrecision) for part in trained)
        kept = {id(tensor) for part in trained for tensor in (*part.parameters(), *part.buffers())}

        def cast(tensor: Tensor) -> Tensor:
            frozen = tensor.is_floating_point() and id(tensor) not in kept
            return tensor.to(self._desired_input_dtype) if frozen else tensor

        return module._apply(cast)

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Whole networks with fp32 weights compute in bf16."""
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False) if self.autocast else nullcontext():
            yield

    def convert_input(self, data: Any) -> Any:
        """The data themselves."""
        return data


def refuse_half_precision(precision: object) -> None:
    """Raise a ``UserError`` for the precisions that several optimizers cannot train in."""
    if str(precision).startswith("16"):
        raise UserError(
            "Precision 16-mixed and 16-true scale or overflow gradients of several optimizers; "
            "set trainer.precision to bf16-mixed, bf16-true or 32-true."
        )


def slope_of(total: Tensor) -> Tensor:
    """With what a backward pass begins: 1, or NaN if the loss is no finite number.

    Some losses hide what they are made of: the gradient of ``|NaN|`` is 0.
    """
    return 1.0 + 0.0 * total.detach()
