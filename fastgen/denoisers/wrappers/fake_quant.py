"""A student that computes with numbers of few bits while it learns, beside a teacher and a critic of full precision."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.denoisers.wrappers.number_formats import NVFP4, NumberFormat
from fastgen.errors import UserError


@dataclass(frozen=True)
class FakeQuant(FromTeacher):
    """A copy of the teacher whose linear layers round their weights, and their inputs, in every call.

    Quantisation-aware distillation as in FastVideo and NVIDIA's Model Optimizer. The gradient is that of the layers
    without rounding, on numbers without rounding. Weights are kept and saved unrounded under the teacher's names; an
    exported pipeline holds them rounded. Layers that embed times stay as they are.

    Args:
        format: What numbers are rounded to.
        layers: One or more patterns of module paths, e.g. ``*.ffn.*``; ``*`` is every linear layer. Published recipes
            take the projections of attention and the feed-forward layers.
        activations: Round the layers' inputs too (W4A4); scales are of each sample.
    """

    format: NumberFormat = NVFP4()
    layers: Sequence[str] | str = "*"
    activations: bool = True

    def __post_init__(self) -> None:
        checks.not_empty(self, layers=self.layers)

    def build(self, teacher: Denoiser) -> Denoiser:
        """The student.

        Raises:
            UserError: If a pattern fits no linear layer.
        """
        student = CopyOfTeacher().build(teacher)
        linear = {path: module for path, module in student.named_modules() if type(module) is nn.Linear}
        for pattern in [self.layers] if isinstance(self.layers, str) else self.layers:
            chosen = [module for path, module in linear.items() if fnmatchcase(path, pattern)]
            if not chosen:
                raise UserError(
                    f"FakeQuant: '{pattern}' fits no linear layer of {type(teacher).__name__}; its layers are named "
                    f"like {', '.join(repr(path) for path in list(linear)[:3])}. Say which in layers."
                )
            for module in chosen:
                module.__class__ = RoundedLinear
                module.format, module.activations = self.format, self.activations  # type: ignore[assignment]
        return student


class RoundedLinear(nn.Linear):
    """A linear layer with rounded numbers and the gradient of exact ones.

    Attributes:
        format: What numbers are rounded to.
        activations: Whether inputs are.
    """

    format: NumberFormat
    activations: bool

    def forward(self, input: Tensor) -> Tensor:
        x, weight, bias = (None if one is None else one.detach() for one in (input, self.weight, self.bias))
        with torch.no_grad():
            seen = self.format.rounded(x, by_sample=True) if self.activations else x
            rounded = F.linear(seen, self.format.rounded(weight), bias)
        exact = super().forward(input)  # its derivatives, backward and forward, are taken
        return rounded + (exact - exact.detach())


def rounds_inputs(network: nn.Module) -> bool:
    """Whether a network computes with fewer bits than its weights say."""
    return any(isinstance(module, RoundedLinear) and module.activations for module in network.modules())


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """A copy whose weights are rounded for good, in plain linear layers; a network that rounds nothing is itself."""
    if not any(isinstance(module, RoundedLinear) for module in network.modules()):
        return network
    result = copy.deepcopy(network)
    for module in result.modules():
        if isinstance(module, RoundedLinear):
            module.weight.copy_(module.format.rounded(module.weight))
            del module.format, module.activations
            module.__class__ = nn.Linear  # type: ignore[assignment]
    return result
