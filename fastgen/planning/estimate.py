"""The cost of a student update, counted on networks without storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException as NeedsValues
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.distiller.base import Distiller
from fastgen.distiller.optimizers import make_optimizer
from fastgen.errors import UserError
from fastgen.planning.ledger import Ledger
from fastgen.planning.masks import AllTrue
from fastgen.planning.operations import Operations
from fastgen.planning.storageless import build, changed
from fastgen.precision import FrozenInBFloat16

FIRST_TURNS = 100_000
"""Iterations within which a student's turn must come."""


@dataclass
class Turn:
    """One optimizer step of a role.

    Attributes:
        role: Who learns.
        count: How often in a student update.
        flops: Operations of one (products and convolutions; recomputed ones too).
        peak: Most bytes alive in it, beyond weights, gradients and optimizer states.
        calls: Calls of a network per sample, by whether their graph was kept.
    """

    role: str
    count: int = 0
    flops: int = 0
    peak: int = 0
    calls: dict[str, float] = field(default_factory=lambda: {"learning": 0.0, "frozen": 0.0})


@dataclass
class Estimate:
    """What one process needs, in bytes, and what a student update costs.

    Attributes:
        parameters: Numbers of parameters by role; ``teacher`` are frozen.
        trained: How many of them learn.
        weights: Of all networks.
        gradients: Of all roles that keep theirs between turns.
        optimizers: States of all optimizers.
        averages: Of the averages of the student.
        turns: The turns of a student update.
    """

    parameters: dict[str, int] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    weights: int = 0
    gradients: int = 0
    optimizers: int = 0
    averages: int = 0
    turns: list[Turn] = field(default_factory=list)
    total: int = 0
    """Most bytes alive at once."""

    @property
    def activations(self) -> int:
        """What the hungriest turn holds beside them."""
        return max((turn.peak for turn in self.turns), default=0)

    @property
    def flops(self) -> int:
        """Operations of a student update, of one process."""
        return sum(turn.count * turn.flops for turn in self.turns)


def sized(network: Denoiser, count: int) -> Condition:
    """A condition of ``count`` samples whose prompts are as long as the network's options allow."""
    tokens = int(getattr(network.backbone, "max_tokens", 1))
    long = ("prompt_embeds", "prompt_mask")
    found = {}
    for name, value in network.example_condition(count).items():
        is_text = name.removeprefix("null_") in long and value.ndim >= 2 and value.shape[1] == 1
        found[name] = value.repeat_interleave(tokens, dim=1) if is_text else value
    return found


def size_of(tensors: Any) -> int:
    """Bytes of tensors, each storage once."""
    return sum({id(x.untyped_storage()): x.untyped_storage().nbytes() for x in tensors}.values())


def of_modules(modules: Any) -> list[Tensor]:
    """Parameters and buffers."""
    return [x for module in modules for x in (*module.parameters(), *module.buffers())]


@contextmanager
def counted(turn: Turn, batch: int) -> Iterator[None]:
    """Inside, calls of networks are counted."""
    forward = Denoiser.forward

    def noted(self: Denoiser, x_t: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, Wrapper) and self.backbone is self:
            kind = "learning" if torch.is_grad_enabled() else "frozen"
            turn.calls[kind] += len(x_t) / batch
        return forward(self, x_t, *args, **kwargs)

    with mock.patch.object(Denoiser, "forward", noted):
        yield


def estimate(method: Distiller, batch: Mapping[str, tuple[int, ...]], size: int, precision: str) -> Estimate:
    """Count what training ``method`` needs on one process.

    Its networks are built without storage, and its losses, gradients and optimizer steps are computed on them, by the
    method's own code: what is counted is what would run. Extras are counted from the start, whenever they start.

    Args:
        method: As the config builds it, without networks.
        batch: Shapes, without the batch axis, of the tensors that a batch holds beside its condition: ``x0``,
            ``noise``.
        size: Samples of a batch.
        precision: As Lightning calls it.

    Raises:
        UserError: If the method's course depends on values that a plan does not have.
    """
    found, ledger = Estimate(), Ledger()
    method.read_weights = False
    for extra in method.each_extra():
        extra.start = 0
    half = FrozenInBFloat16("cpu") if precision == "bf16-true" else None
    context: Any = nullcontext()
    if precision == "bf16-mixed" or (half is not None):
        context = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with fakes, AllTrue(), changed(), ledger:
            build(method, fakes)
            if half is not None:
                half.convert_module(method)
                context = half.forward_context()
            method.list_trained_parameters()
            for tensor in of_modules([method]):
                ledger.hold(tensor)
            with context:
                _run(method, batch, size, ledger, found)
    except (NeedsValues, DynamicOutputShapeException) as error:
        raise UserError(
            f"{type(method).__name__} decides by the values of its samples what it does next, and a plan has none; "
            "train it for a few updates with the callback Throughput to see what it needs."
        ) from error
    return found


def _run(method: Distiller, batch: Mapping[str, tuple[int, ...]], size: int, ledger: Ledger, found: Estimate) -> None:
    """Two student updates, of which the second is counted: optimizers have their states then."""
    device = torch.device("cpu")
    networks = {"teacher": [method.teacher] if method.teacher is not None else [], **method.all_trained_modules()}
    found.parameters = {role: sum(p.numel() for p in unique(parts)) for role, parts in networks.items()}
    found.trained = {role: sum(p.numel() for p in own) for role, own in method.trained_parameters.items()}
    found.averages = size_of(of_modules(method.averages.values()))
    found.weights = size_of(of_modules([method])) - found.averages
    data: dict[str, Any] = {name: torch.randn(size, *shape, device=device) for name, shape in batch.items()}
    data |= {"condition": sized(method.student, size), "encoded": True, "index": range_tensor(size)}
    optimizers = {
        role: make_optimizer(role, method.optimizer_factories[role], own)
        for role, own in method.trained_parameters.items()
    }
    turns: dict[tuple[tuple[str, ...], str, int], Turn] = {}
    for iteration, counting in course(method):
        method.iteration = iteration
        roles = method.all_turns(iteration)
        parts = None
        for place, role in enumerate(roles):
            key = (roles, role, place)
            if counting and key in turns and parts is None:
                turns[key].count += 1
                continue
            parts = parts or method.parts("train", data, iteration, method_pieces(method))
            turn = Turn(role)
            with counted(turn, size), Operations() as operations:
                ledger.begin()
                one_turn(method, role, parts, optimizers[role])
            turn.flops, turn.peak = operations.total, ledger.peak
            if counting:
                turn.count = turns[key].count + 1 if key in turns else 1
                turns[key] = turn
    found.turns = list(turns.values())
    found.optimizers = size_of(x for o in optimizers.values() for s in o.state.values() for x in tensors_in(s))
    found.gradients = size_of(p.grad for own in method.trained_parameters.values() for p in own if p.grad is not None)
    found.total = max(turn.peak for turn in found.turns)
    for turn in found.turns:
        turn.peak -= found.weights + found.averages + found.gradients + found.optimizers


def one_turn(method: Distiller, role: str, parts: Any, optimizer: torch.optim.Optimizer) -> None:
    """An update without the trainer around it, and without a look at the gradient's norm."""
    optimizer.zero_grad(set_to_none=True)
    for part in parts:
        part.begin_turn(role)
    with method.only(role):
        method.before_update(role, parts)
        for part in parts:
            losses = method.losses(role, part)
            (torch.stack(list(losses.values())).sum() / len(parts)).backward()
            part.end_turn(role)
            del losses
    optimizer.step()


def course(method: Distiller) -> Iterator[tuple[int, bool]]:
    """Iterations of two student updates; whether an iteration belongs to the second."""
    first = next((i for i in range(FIRST_TURNS) if "student" in method.all_turns(i)), None)
    if first is None:
        raise UserError(f"{type(method).__name__} does not train its student in {FIRST_TURNS:,} iterations.")
    second = next(i for i in range(first + 1, FIRST_TURNS) if "student" in method.all_turns(i))
    for iteration in range(max(0, first - (second - first) + 1), second + 1):
        yield iteration, iteration > first


def method_pieces(method: Distiller) -> int:
    """Micro-batches of a batch."""
    return int(method.micro_batches)


def unique(modules: Any) -> list[nn.Parameter]:
    """The parameters of some modules, each once."""
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def tensors_in(state: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of an optimizer's state for one parameter."""
    return [x for x in state.values() if isinstance(x, Tensor)]


class range_tensor:
    """The numbers of the samples: a plan's tensors have no values to make a list of."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def tolist(self) -> list[int]:
        """The numbers."""
        return list(range(self.count))
