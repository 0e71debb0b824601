"""A tiny class-conditional problem on which every method can train, and a quiet trainer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities import registry
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.data.base import DistillationData
from fastgen.data.sources import BatchSource, TensorSource
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.causal.transformer import ClipTransformer
from fastgen.denoisers.exact.gaussians import MixtureDenoiser
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser, LoRA
from fastgen.denoisers.wrappers.lorad import LoRaD
from fastgen.extras.backbones import Backbone
from fastgen.methods import Distiller
from fastgen.processes import EDM, Process

CLASSES = 3


class ToyCodec(Codec):
    """People see other points, and count the classes backwards."""

    scale: Tensor
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 0.5]))
        self.register_buffer("centre", torch.tensor([0.25, -0.5]))

    def encode(self, images: Tensor) -> Tensor:
        return (images - self.centre) / self.scale

    def decode(self, x0: Tensor) -> Tensor:
        return x0 * self.scale + self.centre

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        return {name: -value % CLASSES if name == "label" else value for name, value in condition.items()}


class ToyMLP(MLP):
    """A network behind a codec that is not the identity, so that what forgets the codec is noticed."""

    def make_codec(self) -> Codec:
        return ToyCodec()


def network(seed: int, process: Process | None = None, width: int = 16, depth: int = 2, **kwargs: Any) -> MLP:
    """A small MLP whose weights are a function of ``seed``; none of them is zero."""
    result = ToyMLP(process or EDM(), width=width, depth=depth, num_classes=CLASSES, **kwargs)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return result


def clip_network(seed: int, chunk: int = 1, process: Process | None = None, **options: Any) -> ClipTransformer:
    """A small transformer that sees the toys' points as clips of two frames; none of its weights is zero."""
    sizes: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "num_classes": CLASSES, "sigma_data": 0.9}
    made = ClipTransformer(process or EDM(), 2, 0, chunk=chunk, **{**sizes, **options})
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=g))
    made.make_codec = ToyCodec  # type: ignore[method-assign]
    return made


class StirredLoRA(LoRA):
    """LoRA whose changes are not zero at the start, so that the role differs from the teacher from its first turn."""

    def attach(self, base: Denoiser) -> AdaptedDenoiser:
        role = super().attach(base)
        g = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for change in role.by_path().values():
                change.up.weight.copy_(0.3 * torch.randn(change.up.weight.shape, generator=g))
                change.down.weight.copy_(0.3 * torch.randn(change.down.weight.shape, generator=g))
        return role


class StirredLoRaD(LoRaD):
    """LoRaD whose angles are not zero at the start."""

    def attach(self, base: Denoiser) -> AdaptedDenoiser:
        role = super().attach(base)
        g = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for change in role.by_path().values():
                change.a.copy_(0.3 * torch.randn(change.a.shape, generator=g))
                change.b.copy_(0.3 * torch.randn(change.b.shape, generator=g))
        return role


@dataclass(frozen=True)
class ToyBackbone(Backbone):
    """A random network of points, in place of one of images."""

    layers: Sequence[str] = ("0", "2")

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6))

    def prepared(self, images: Tensor) -> Tensor:
        return images


class ToyData(DistillationData):
    """Points of three Gaussians in the plane with their labels."""

    sample_kind = "points"

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        law = MixtureDenoiser(EDM(), [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], 0.3, classes=[0, 1, 2])
        label = torch.arange(60) % CLASSES
        points = law.sample(60, torch.Generator().manual_seed(0), label)
        return TensorSource(points[:48], label[:48]), TensorSource(points[48:], label[48:])

    @property
    def num_classes(self) -> int:
        return CLASSES


class FreeData(ToyData):
    """The same labels without samples."""

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        class Labels(BatchSource):
            size = None

            def batch(self, indices: Sequence[int]) -> dict[str, Any]:
                return {"condition": {"label": torch.as_tensor(indices) % CLASSES}}

        return Labels(), Labels()


class StopAfter(Callback):
    """Ends training after so many batches and maybe writes a checkpoint on the way."""

    def __init__(self, batches: int, save_at: int | None = None, path: str | None = None) -> None:
        self.batches, self.save_at, self.path = batches, save_at, path

    def on_train_batch_end(self, trainer: Trainer, pl_module: Distiller, *_: Any) -> None:
        if pl_module.iteration == self.save_at:
            trainer.save_checkpoint(self.path)
        if pl_module.iteration >= self.batches:
            trainer.should_stop = True


registry.entry_points = functools.cache(registry.entry_points)  # a sixth of a short fit is looking for plugins


def trainer(batches: int, *callbacks: Callback, **kwargs: Any) -> Trainer:
    """A CPU trainer without output that stops after ``batches``."""
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": -1,
            "logger": False,
            "callbacks": [*callbacks, StopAfter(batches)],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
        }
        | kwargs
    )


def arguments(method: type[Distiller]) -> dict[str, inspect.Parameter]:
    """All constructor arguments of a method, with those that travel through ``**kwargs``."""
    found: dict[str, inspect.Parameter] = {}
    for cls in method.__mro__:
        if issubclass(cls, Distiller) and "__init__" in vars(cls):
            found = dict(inspect.signature(cls.__init__).parameters) | found
    return {k: v for k, v in found.items() if k != "self" and v.kind != inspect.Parameter.VAR_KEYWORD}


def build(method: type[Distiller], **kwargs: Any) -> Distiller:
    """A method whose networks all start apart, so that every role has a gradient from its first turn."""
    factories = [name for name, p in arguments(method).items() if "Callable[[], Denoiser]" in str(p.annotation)]
    networks = {name: partial(network, seed) for seed, name in enumerate(sorted(factories))}
    return method(**(networks | kwargs))


def gradient_descent(method: type[Distiller], lr: float) -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Arguments that make every role train by plain gradient descent."""
    return {name: partial(torch.optim.SGD, lr=lr) for name in arguments(method) if name.endswith("_optimizer")}
