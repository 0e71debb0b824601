"""Every method on the toys. A new method is there from the day ``fastgen.methods`` imports it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from toys import StirredLoRA, StirredLoRaD, ToyBackbone, ToyData, build, clip_network, trainer

import fastgen.methods  # noqa: F401
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.caches import EMASink, NoisyCache
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.routed import LabelRouter
from fastgen.denoisers.wrappers.second_time import NoiseAngles
from fastgen.denoisers.wrappers.several_conditions import JointScales, NestedScales
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras import GAN, DistributionMatching, RewardModel, SelfPair, SemigroupDefect
from fastgen.methods import SCM, Distiller
from fastgen.objectives.few_step_forms import TransportForm
from fastgen.sampling.samplers import (
    BespokeSampler,
    BufferSampler,
    ChunkSampler,
    CorrectedSampler,
    GridSampler,
    JumpSampler,
    MixedChunkSampler,
    PhasedSampler,
    PolicySampler,
    RandomScheduleSampler,
    RenoiseSampler,
    ScaleSampler,
    TrajectorySampler,
)
from fastgen.times import EtaTimes, FlowTime, GridTimes, SegmentTimes, SortedTimes, UniformTime


class ToTheRight(RewardModel):
    """Larger first coordinates."""

    def forward(self, samples: Tensor, condition: Mapping[str, Any]) -> Tensor:
        return samples[:, 0]


CLIPS: dict[str, Any] = {"student": functools.partial(clip_network, 3), "sampler": ChunkSampler([20.0, 2.0])}
"""For methods whose student is a causal network of clips."""

MIXED = MixedChunkSampler(numbers=[4, 2], shares=[0.5, 0.5])
CHUNKED = ("SelfForcing", "CausVid", "ODEInitialisation", "CausalConsistency", "RewardForcing", "LiveAvatar", "VDOT")
CHUNKED += ("MotionStream", "LiveTalk", "SeverallyGuided", "MatrixGame")

PAIRED = MixedChunkSampler(steps=2, stop="last", numbers=[1, 2], shares=[0.5, 0.5])
WHOLE = {"student": functools.partial(clip_network, 3, 0), "teacher": functools.partial(clip_network, 4, 0)}

SPECIAL: dict[str, dict[str, Any]] = {
    "ASD": CLIPS | {"sampler": PAIRED, "extras": [SelfPair(steps=2)]},
    "BufferedForcing": {"student": WHOLE["student"], "chunks": [1, 2]},
    "StreamDiT": WHOLE | {"chunk": 1, "micro_steps": 2, "sampler": BufferSampler(1, 2)},
    "VideoBLADE": {"sampler": TrajectorySampler([20.0, 2.0])},
    **{name: CLIPS for name in CHUNKED},
    "RewardForcing": CLIPS
    | {"reward": ToTheRight, "beta": 0.02, "sampler": ChunkSampler([20.0, 2.0], cache=EMASink(1, 1))},
    "LiveAvatar": CLIPS | {"sampler": ChunkSampler([20.0, 2.0], cache=NoisyCache(1, 1))},
    "MotionStream": CLIPS | {"scales": JointScales({"label": 3.0})},
    "LiveTalk": CLIPS | {"scales": NestedScales({"label": 2.0})},
    "SeverallyGuided": CLIPS | {"scales": NestedScales({"label": 2.0})},
    "Salt": CLIPS | {"sampler": MIXED, "extras": [SemigroupDefect(grid=4, segments=2)]},
    "VDOT": CLIPS | {"form": TransportForm(channels=-1)},
    **{name: {"student": CLIPS["student"]} for name in ("DiffusionForcing", "TeacherForcing")},
    "CausalConsistency": CLIPS | {"teacher": functools.partial(clip_network, 4)},
    "ADD": {"backbones": [ToyBackbone()], "augment": False},
    "DisBack": {"degradation": 2, "snapshots": 2, "schedule": UpdateSchedule()},
    "AnyFlow": {"second_time": NoiseAngles()},
    "IMM": {"group": 1, "times": EtaTimes(0.2, 0.8, k=7)},
    # A random network is steep: in long jumps its derivatives drown the flow.
    "ESD": {"times": SortedTimes(FlowTime(0.45, 0.55))},
    "MSD": {"router": LabelRouter(3)},
    "SDXS": {"warmup": 1},
    "AMD": {"reward": ToTheRight},
    "SwiftBrush": {"critic": StirredLoRA(rank=4)},
    "WaDi": {"student": StirredLoRaD(4, layers="*"), "critic": StirredLoRaD(3, layers="*")},
    "TDM": {"sampler": TrajectorySampler([20.0, 2.0])},
    "OptimalSteps": {"student": CopyOfTeacher(), "fine_steps": 24},
    "DODE": {"student": CopyOfTeacher(), "scale": 3, "sampler": CorrectedSampler(3)},
    "Bespoke": {"student": CopyOfTeacher(), "dense": 2, "sampler": BespokeSampler(2)},
    # The toys' random networks make steep policies, whose gradients are large and lose digits in fp32.
    "PiFlow": {"loss_scale": 0.6, "sampler": PolicySampler(substeps=16)},
    "ArcFlow": {"loss_scale": 0.6, "sampler": PolicySampler(steps=1)},
    "Progressive": {"stage_updates": 2},
    # The velocities that it compares are noise over sigma: near clean data they lose digits in fp32.
    "RealUID": {"renoise_time": UniformTime(0.4, 0.9), "critic_time": UniformTime(0.4, 0.9)},
    "SFD": {"sampler": JumpSampler(steps=2), "substeps": 2},
    "SFDDM": {"sampler": JumpSampler(steps=2), "substeps": 2},
    "SlimFlow": {"reflow_updates": 1, "anneal_updates": 2},
    "PCM": {"times": SegmentTimes(8, 4)},
    "SCFlow": {"start": 0},
    "SCott": {"times": GridTimes(9, 3)},
    "TBCM": {"points": 3},
    "SiDA": {"gan_start": 0, "schedule": UpdateSchedule()},
    "UniInstruct": {"gan_start": 0, "schedule": UpdateSchedule()},
}
"""Constructor arguments by class name, for methods that the defaults of ``toys.build`` do not fit."""

FEW_STEPS: dict[str, dict[str, Any]] = {
    "ASD": {"sampler": PAIRED},
    "StreamDiT": {"sampler": BufferSampler(1, 3)},
    "VideoBLADE": {"sampler": TrajectorySampler([80.0, 5.0, 0.5])},
    "Salt": {"sampler": MIXED},
    **{name: {"sampler": ChunkSampler([80.0, 5.0, 0.5])} for name in CHUNKED},
    "CDM": {"sampler": RandomScheduleSampler([80.0, 5.0, 0.5], longest=3)},
    "EMD": {"sampler": RenoiseSampler([80.0])},
    "SwD": {"sampler": ScaleSampler([80.0, 5.0, 0.5], scales=[0.5, 0.75, 1.0])},
    "OptimalSteps": {"sampler": GridSampler(3)},
    "DODE": {"sampler": CorrectedSampler(3)},
    "Bespoke": {"sampler": BespokeSampler(3, order=1)},
    "PhasedDMD": {"sampler": PhasedSampler([80.0, 5.0, 0.5], phases=3)},
    "PiFlow": {"sampler": PolicySampler([80.0, 5.0, 0.5], substeps=16)},
    "ArcFlow": {"sampler": PolicySampler([80.0, 5.0, 0.5])},
    "Progressive": {"steps": [4, 2]},
    "SFD": {"sampler": JumpSampler([80.0, 5.0, 0.5]), "substeps": 2},
    "SFDDM": {"sampler": JumpSampler([80.0, 5.0, 0.5]), "substeps": 2},
    "SlimFlow": {"sampler": JumpSampler([80.0, 5.0, 0.5])},
    "TDM": {"sampler": TrajectorySampler([80.0, 5.0, 0.5])},
}
"""How methods train for several steps whose steps are not those of a ``RenoiseSampler``."""

GRADIENT_FREE = {"OptimalSteps", "DODE"}
"""Methods whose updates are searches."""


def concrete(cls: type[Distiller] = Distiller) -> Iterator[type[Distiller]]:
    for child in cls.__subclasses__():
        abstract = any(getattr(getattr(child, name, None), "__isabstractmethod__", False) for name in dir(child))
        if child.__module__.startswith("fastgen.methods.") and not abstract:
            yield child
        yield from concrete(child)


class RegularisedSCM(SCM):
    """A method whose extras bring roles of their own: a score term with its critic, and a discriminator."""

    def __init__(
        self,
        critic: Callable[[], Denoiser] | None = None,
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
        discriminator_optimizer: OptimizerCallable = torch.optim.Adam,
        **kwargs: Any,
    ) -> None:
        matching = DistributionMatching(critic=critic, critic_optimizer=critic_optimizer, critic_updates=1)
        gan = GAN(weight=0.1, discriminator_weight=1.0, features="teacher", optimizer=discriminator_optimizer)
        super().__init__(extras=[matching, gan], **kwargs)


def copies(methods: Sequence[type[Distiller]], count: int) -> Iterator[type[Distiller]]:
    """Subclasses of methods without options of their own here, in turn: as many more methods, for the tests' time."""
    plain = [cls for cls in methods if cls.__name__ not in {*SPECIAL, *FEW_STEPS, *GRADIENT_FREE}]
    for number in range(count):
        original = plain[number % len(plain)]
        yield type(f"{original.__name__}Copy{number}", (original,), {"__module__": "copies"})


METHODS = sorted(concrete(), key=lambda cls: cls.__name__)
ORIGINAL = {cls: cls.__base__ for cls in copies(METHODS, int(os.environ.get("FASTGEN_METHOD_COPIES", "0")))}
"""Whose copy a method is; there are none unless one measures what the tests of so many more methods cost."""
METHODS = sorted({*METHODS, *ORIGINAL, RegularisedSCM}, key=lambda cls: cls.__name__)


def make(cls: type[Distiller], **kwargs: Any) -> Distiller:
    return build(cls, **(SPECIAL.get(cls.__name__, {}) | kwargs))


@functools.cache
def roles_of(cls: type[Distiller]) -> tuple[str, ...]:
    method = make(cls)
    method.configure_model()
    return method.roles()


@functools.cache
def iterations(cls: type[Distiller], start: int = 0) -> int:
    """The number of iterations after which every role had a turn since iteration ``start``."""
    method = make(cls)
    method.configure_model()
    waiting = set(method.roles())
    for iteration in range(start, start + 50):
        waiting -= set(method.all_turns(iteration))
        if not waiting:
            return iteration + 1
    raise AssertionError(f"{waiting} had no turn in 50 iterations")


def every_turn(cls: type[Distiller], times: int) -> int:
    """The number of iterations after which every role had so many turns."""
    count = 0
    for _ in range(times):
        count = iterations(cls, count)
    return count


def fit(method: Distiller, batches: int, *callbacks: Any, batch_size: int = 4, **kwargs: Any) -> dict[str, float]:
    run = trainer(batches, *callbacks, **kwargs)
    run.fit(method, ToyData(batch_size=batch_size))
    # The method holds its trainer weakly, so the count is taken here.
    return {name: float(value) for name, value in run.callback_metrics.items()} | {"updates": float(run.global_step)}
