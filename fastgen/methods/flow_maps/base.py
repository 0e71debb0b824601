"""FlowMapDistiller: a student that learns where the probability flow leads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, where
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.dropout import foreign_dropout, masks_of
from fastgen.denoisers.wrappers.second_time import NoiseAngles, SecondTimeForm
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.run_facts import RunFacts, idle_options
from fastgen.errors import UserError
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.sources import RealData, StateSource
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.target_by_time import TargetByTime  # noqa: F401  whom the command line finds by name
from fastgen.methods.flow_maps.targets import StudentTarget, TargetNetwork
from fastgen.methods.flow_maps.velocity import DataVelocity, Velocity
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws, derive_seed
from fastgen.times import JumpLaw


class FlowMapDistiller(Distiller, ABC):
    """Times, state, target, loss: a method overrides :meth:`map_loss` and picks defaults.

    The student's map from t to s is the process's jump along its prediction (``fastgen.objectives.flow_maps``), so any
    denoiser is one; with ``two_times`` it is also told where the jump ends. The loss may live in the coordinates of
    another process than the networks', which are then seen through ``OnProcess``; samples are drawn on the student's
    own process, where the same prediction is the same map.

    Args:
        times: Law of the times of a jump.
        states: Where the points come from at which jumps begin.
        velocity: What moves the state.
        coordinates: Process whose time and velocity the loss is written in; the student's own if it is of this kind, or
            in any case with ``student``.
        guidance: Guidance of the teacher.
        target: Who makes targets.
        second_time: How a student of two times is told where a jump ends.
        condition_dropout: Probability of training on the null condition.
    """

    two_times = False
    group = 1
    """How many samples in a row share their times."""

    def __init__(
        self,
        times: JumpLaw,
        states: StateSource = RealData(),
        velocity: Velocity = DataVelocity(),
        coordinates: Process | Literal["student"] = "student",
        guidance: TeacherGuidance = TeacherGuidance(),
        target: TargetNetwork = StudentTarget(),
        second_time: SecondTimeForm = NoiseAngles(),
        condition_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, condition_dropout=condition_dropout)
        checks.kind(self, TargetNetwork, target=target)
        super().__init__(**kwargs)
        self.times = times
        self.states = states
        self.velocity = velocity
        self.wanted_coordinates = coordinates
        self.guidance = guidance
        self.target = target
        self.second_time = second_time
        self.condition_dropout = condition_dropout

    # ------------------------------------------------------------------ roles

    def prepare_student(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "adapters"))  # new weights are a function of the run's seed
            if self.two_times:
                self.student.add_second_time(self.second_time)
            if self.guidance.embedded:
                self.student.add_guidance_input()

    def build_roles(self) -> None:
        if self.needs_teacher() and self.teacher is None:
            raise UserError(f"{type(self).__name__} asks a teacher here; give model.init_args.teacher.")
        own, wanted = self.student.process, self.wanted_coordinates
        self.coordinates = own if isinstance(wanted, str) or isinstance(own, type(wanted)) else wanted
        last = torch.tensor(own.t_max, dtype=torch.float64, device="cpu")
        self.t_max = own.t_max if self.coordinates is own else float(self.coordinates.time(own.ratio(last)))
        self.target_weights = self.target.build(self.average_of_student)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.trainer.ckpt_path:
            self.target.begin(self.student, self.target_weights)  # the student may have read its weights since

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        super().before_update(role, parts)
        self.samples_of_update = sum(len(part.draws) for part in parts)

    def after_update(self, role: str) -> None:
        super().after_update(role)
        if role == "student":
            self.target.follow(self.student, self.target_weights, self.samples_of_update * self.trainer.world_size)

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        yield from super().without_effect(run)
        told = {"guidance": self.guidance.active, "condition_dropout": self.condition_dropout > 0}
        yield from idle_options(run, told)
        if not self.two_times and self.second_time != NoiseAngles():
            yield f"{type(self).__name__} tells its student one time: second_time does nothing; leave it out."
        if self.teacher is not None and not self.needs_teacher() and not self.extras:
            yield (
                f"{type(self).__name__} learns from the data, the teacher only starts the student and is compared with "
                "it; to learn from the teacher set model.init_args.velocity (or transition) to one of the teacher."
            )

    def needs_teacher(self) -> bool:
        """Whether training asks a teacher."""
        return self.velocity.needs_teacher or self.states.needs_teacher

    def target_network(self) -> Denoiser:
        """The network that makes targets."""
        return self.target.network(self.student, self.target_weights.networks())

    @property
    def networks(self) -> MapNetworks:
        """Whom velocities, transitions and state sources may ask."""
        return MapNetworks(
            student=self.student,
            target=self.target_network(),
            teacher=self.teacher,
            coordinates=self.coordinates,
            t_max=self.t_max,
            two_times=self.two_times,
            embedded=self.guidance.embedded,
            guided=self.guidance.active,
        )

    # ------------------------------------------------------------------ calls

    def predict(
        self, network: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, state: MapState, condition: Condition | None = None
    ) -> Prediction:
        """See :meth:`MapNetworks.predict`."""
        return self.networks.predict(network, x_t, t, s, state, condition)

    def student_condition(self, condition: Condition, draws: Draws) -> Condition:
        if not self.guidance.embedded:
            return condition
        scale = torch.full((len(draws),), self.guidance.when_sampling(), device=draws.device)
        return {**condition, "guidance": scale}

    # ------------------------------------------------------------------ training

    def state(self, part: MicroBatch) -> MapState:
        """Where the student is asked: points of the source at drawn times."""
        draws = part.draws.scoped("student")
        law_draws = draws.grouped(self.group) if self.group > 1 else draws
        times = self.times.sample(law_draws, self.coordinates, self.student_updates).at_most(self.t_max)
        shape, dtype = self.student.sample_shape, self.noise_dtype() if part.x0 is None else part.x0.dtype
        noise = draws.normal("noise", shape, dtype)
        condition, dropped = part.condition, draws.uniform("dropout") < self.condition_dropout
        if self.condition_dropout > 0 and condition:
            condition = where(dropped, self.student.null_condition(condition), condition)
        pure = MapState(times, noise, None, noise, condition, dropped, self.guidance.draw(draws))
        return self.states.state(self.networks, part, pure)

    def on_jumping_rows(self, state: MapState, answer: Callable[..., Tensor], *more: Tensor) -> Tensor:
        """``answer(state, *more)``, (B, ...), asked for the samples only that jump (s < t); zero for the others.

        One sample is always asked, since the ranks of a sharded network must call it together. A foreign network with
        dropout of its own is asked for all, since its masks belong to the whole batch.
        """
        jumping = state.times.s < state.times.t
        jumping[0] |= ~jumping.any()
        if foreign_dropout(self.student.backbone):
            jumping = torch.ones_like(jumping)
        rows = jumping.nonzero().squeeze(1)
        with masks_of(self.student.backbone, rows, len(jumping)):
            found = answer(state.part(rows), *(value[rows] for value in more))
        return found.new_zeros(state.x_t.shape).index_copy(0, rows, found)

    @abstractmethod
    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        """The named losses at a state."""

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Times, state, target, loss."""
        return self.map_loss(self.state(part))
