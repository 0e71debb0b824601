"""Tensors and networks that are spread over processes, each of which holds a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; every process must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(value: Any, keep: bool) -> Any:
    """A nested value with every sharded tensor made whole and brought to the CPU, one after the other.

    Every process must ask; those that do not ``keep`` the result hold no more than one whole tensor at a time, and get
    their tensors back as they were.
    """
    if isinstance(value, Tensor):
        if not hasattr(value, "full_tensor"):
            return value
        full = whole(value.detach())
        return full.cpu() if keep else value
    if isinstance(value, Mapping):
        return {name: gathered(part, keep) for name, part in value.items()}
    return [gathered(part, keep) for part in value] if isinstance(value, list) else value


def sharded_like(tensor: Tensor, example: Any) -> Tensor:
    """A tensor that every process knows whole, sharded as ``example`` of its shape is; else the tensor itself."""
    if not hasattr(example, "placements") or tensor.shape != example.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, example.device_mesh, example.placements, src_data_rank=None)


@contextmanager
def parameters_without_storage() -> Iterator[None]:
    """Inside, modules that are built have parameters with shapes but no values; buffers are as usual."""

    def forget(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(forget)  # type: ignore[arg-type]  # it may return one
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def receive_parameters(module: nn.Module, device: torch.device) -> None:
    """Give the parameters of ``module`` rank 0's values, on ``device``; those that are sharded already are left."""
    for parameter in module.parameters():
        if hasattr(parameter, "to_local"):
            continue
        value = (
            torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            if parameter.is_meta
            else parameter.detach().to(device).contiguous()
        )
        dist.broadcast(value, src=0)
        torch.utils.swap_tensors(parameter, nn.Parameter(value, parameter.requires_grad))  # tied ones stay tied


def receive_buffers(module: nn.Module, device: torch.device) -> None:
    """Give the buffers of ``module`` rank 0's values."""
    for buffer in module.buffers():
        value = buffer.to(device).contiguous()
        dist.broadcast(value, src=0)
        buffer.copy_(value)


def blocks(network: nn.Module, of: tuple[type[nn.Module], ...] = (nn.ModuleList,)) -> Iterator[nn.Module]:
    """The parts that a network calls one after the other: the members of its outermost containers ``of`` that kind."""
    for child in network.children():
        if isinstance(network, of) and not isinstance(child, of):
            yield child
        else:
            yield from blocks(child, of)
