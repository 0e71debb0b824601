"""Roles as adapters on one frozen network: student and critic share the teacher's weights and own only a few of theirs.

The shared network is never changed. Its layers carry hooks that add what the running call's adapter says, so its names,
its weights and (with no adapter) its outputs stay what they were, bit for bit, and ``requires_grad`` is never touched.

A backward pass may recompute parts of a forward pass (gradient checkpointing), when another adapter or none is in use.
So every tensor that leaves a module of the shared network carries a note which adapter made it. Autograd meets such a
note before it enters that module's graph, and the recomputation runs under the noted adapter, also where the
graphs of several adapters follow each other in one backward pass. (``torch.utils.checkpoint`` without reentrance.)
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.second_time import NoiseAngles, SecondTimeForm
from fastgen.errors import UserError
from fastgen.precision import KeepsPrecision
from fastgen.processes import Prediction


class Change(nn.Module, ABC):
    """What a role changes about one layer of the shared network: something to be added to the layer's output."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """What is added to the output for the layer's input ``x``."""

    @abstractmethod
    def change(self) -> Tensor:
        """What it adds to the layer's weight, in the shape of that weight."""


class LowRank(Change):
    """``scale * up(down(x))``, to be added to the output of a linear layer or a convolution.

    Hu et al. 2021, LoRA, arXiv 2106.09685. ``up`` starts at zero, so the layer's function does not change at first.
    The weights are fp32; they compute in the precision of ``x`` if that is lower.

    Args:
        layer: The layer that it belongs to.
        rank: Channels between the two.
        scale: Factor of the result, alpha / rank in the paper.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        where: dict[str, Any] = {"device": layer.weight.device, "dtype": torch.float32, "bias": False}
        self.down: nn.Module
        self.up: nn.Module
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, **where)
            self.up = nn.Linear(rank, layer.out_features, **where)
        else:
            names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            self.down = nn.Conv2d(layer.in_channels, rank, **{name: getattr(layer, name) for name in names}, **where)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, **where)
        nn.init.zeros_(cast(Tensor, self.up.weight))

    def forward(self, x: Tensor) -> Tensor:
        own = cast(Tensor, self.down.weight).dtype
        x = x if x.dtype.itemsize < own.itemsize else x.to(own)
        return self.scale * _computed(self.up, _computed(self.down, x))

    def change(self) -> Tensor:
        up, down = cast(Tensor, self.up.weight), cast(Tensor, self.down.weight)
        return self.scale * (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _computed(layer: nn.Module, x: Tensor) -> Tensor:
    """The output of a layer without bias, in the dtype of ``x``."""
    weight = cast(Tensor, layer.weight).to(x.dtype)
    return layer._conv_forward(x, weight, None) if isinstance(layer, nn.Conv2d) else F.linear(x, weight)


class Adapter(FromTeacher, ABC):
    """How a role that shares the frozen teacher differs from it."""

    def build(self, teacher: Denoiser) -> Denoiser:
        return self.attach(teacher)

    @abstractmethod
    def attach(self, base: Denoiser) -> AdaptedDenoiser:
        """A denoiser with the weights of ``base``, which it does not own, and some of its own."""


@dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank changes of linear layers and convolutions (Hu et al. 2021, arXiv 2106.09685).

    Args:
        rank: Rank of a change.
        alpha: The change is scaled by alpha / rank; ``None`` does not scale it.
        layers: One or more patterns of module paths, e.g. ``*.to_[qv]``; ``*`` is every linear layer and convolution.
    """

    rank: int = 64
    alpha: float | None = None
    layers: Sequence[str] | str = "*"

    def __post_init__(self) -> None:
        checks.whole(self, rank=self.rank)
        checks.positive(self, alpha=self.alpha)
        checks.not_empty(self, layers=self.layers)

    def attach(self, base: Denoiser) -> AdaptedDenoiser:
        """The LoRA role on ``base``.

        Raises:
            UserError: If a pattern fits no layer that can be changed.
        """
        possible = {
            path: module
            for path, module in base.named_modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        }
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in possible):
                raise UserError(
                    f"LoRA: '{pattern}' fits no linear layer or convolution of {type(base).__name__}; its layers are "
                    f"named like {', '.join(repr(path) for path in list(possible)[:3])}. Say which in layers."
                )
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        changes = {
            path: LowRank(cast(Any, layer), self.rank, scale)
            for path, layer in possible.items()
            if any(fnmatchcase(path, pattern) for pattern in patterns)
        }
        return AdaptedDenoiser(base, changes)


Changes = Mapping[str, Change]


class Switch:
    """Which adapter of a shared network is in use; one per network."""

    def __init__(self, base: nn.Module) -> None:
        self.in_forward: Changes | None = None
        self.in_backward: tuple[int, Changes | None] = (-1, None)
        for path, module in base.named_modules():
            module.register_forward_hook(partial(self._after, path))

    @staticmethod
    def of(base: nn.Module) -> Switch:
        """The switch of ``base``; the first call puts the hooks in."""
        if "adapter_switch" not in base.__dict__:
            base.__dict__["adapter_switch"] = Switch(base)
        return base.__dict__["adapter_switch"]

    @property
    def current(self) -> Changes | None:
        """The adapter of the running forward call, or of the call that a backward pass is recomputing."""
        task = torch._C._current_graph_task_id()
        if task != -1 and self.in_backward[0] == task:
            return self.in_backward[1]
        return self.in_forward

    @contextmanager
    def to(self, changes: Changes | None) -> Iterator[None]:
        """Inside, the network runs with ``changes``; ``None`` is the bare network."""
        before, self.in_forward = self.in_forward, changes
        try:
            yield
        finally:
            self.in_forward = before

    def _after(self, path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        changes = self.current
        if changes is not None and path in changes:
            output = output + changes[path](inputs[0]).to(output.dtype)
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(partial(self._enter, changes))
        return output

    def _enter(self, changes: Changes | None, gradient: Tensor) -> None:
        self.in_backward = (torch._C._current_graph_task_id(), changes)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of a module's output."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Prediction):
        return [output.value]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]


class AdaptedDenoiser(KeepsPrecision, Wrapper):
    """A denoiser that runs another one's weights with changes of its own.

    Only the changes are parameters, and inputs that the base lacks: they alone are trained, averaged and saved. A copy
    shares the base too. The base stays in the mode (training or not) and under the care of its owner.

    Args:
        base: The shared network.
        changes: Changes by module path of ``base``.
    """

    base: Denoiser

    def __init__(self, base: Denoiser, changes: Changes) -> None:
        super().__init__(base)
        self.__dict__["base"] = base  # not a submodule
        self.changes = nn.ModuleDict({path.replace(".", "/"): change for path, change in changes.items()})
        Switch.of(base)

    def by_path(self) -> dict[str, Change]:
        """The changes by module path of the base."""
        return {name.replace("/", "."): cast(Change, change) for name, change in self.changes.items()}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, calls of the shared network itself are calls of this role."""
        with Switch.of(self.base).to(self.by_path()):
            yield

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition | None = None, s: Tensor | None = None
    ) -> Prediction:
        own = s is not None and not self.base.takes_second_time
        with self.active(), self.added_inputs(t, condition or {}, s if own else None):
            return self.base(x_t, t, condition, None if own else s)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self(x_t, t, condition, s).value

    def merged(self) -> Denoiser:
        """The same function as a network without adapters: a copy of the base with changed weights."""
        network = copy.deepcopy(self.base)
        with torch.no_grad():
            for path, change in self.by_path().items():
                weight = cast(Tensor, network.get_submodule(path).weight)
                weight += change.change()
        self.copy_inputs(network)
        return network

    def __deepcopy__(self, memo: dict[int, Any]) -> AdaptedDenoiser:
        duplicate = AdaptedDenoiser(self.base, copy.deepcopy(self.by_path(), memo))
        self.copy_inputs(duplicate)
        for module, own in zip(duplicate.modules(), self.modules(), strict=True):
            module.training = own.training
        return duplicate

    def copy_inputs(self, other: Denoiser) -> None:
        """Give ``other`` copies of the inputs that this role has beside its base's."""
        for name in ("second_time", "guidance_input"):
            if getattr(self, name) is not None:
                setattr(other, name, copy.deepcopy(getattr(self, name)))

    @property
    def wrapped(self) -> Denoiser:
        return self.base

    @property
    def takes_second_time(self) -> bool:
        return self.second_time is not None or self.base.takes_second_time

    def add_second_time(self, form: SecondTimeForm = NoiseAngles()) -> None:
        Denoiser.add_second_time(self, form)  # its own, at the base's embedding

    @property
    def takes_guidance(self) -> bool:
        return self.guidance_input is not None or self.base.takes_guidance

    def add_guidance_input(self) -> None:
        Denoiser.add_guidance_input(self)

    def load_weights(self) -> None:
        """The base's are its owner's business."""

    @property
    def time_path(self) -> str:
        return self.base.time_path

    @property
    def backbone(self) -> Denoiser:
        return self.base

    @property
    def feature_path(self) -> str:
        return self.base.feature_path
