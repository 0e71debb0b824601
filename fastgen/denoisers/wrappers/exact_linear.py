"""Layers that see a time or a scale compute in fp32, whatever the precision of the network around them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def outside_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of ``like``."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class ExactLinear(nn.Linear):
    """A linear layer that computes in fp32 or higher outside autocast: bf16 weights are cast up for the product."""

    def forward(self, input: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(input.dtype, self.weight.dtype), torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(input.to(dtype), self.weight.to(dtype), bias)
