"""FlowMapDistiller: a student that learns where the probability flow leads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, select, where
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.dropout import foreign_dropout, masks_of
from fastgen.denoisers.warped import seen_on
from fastgen.errors import UserError
from fastgen.map_times import JumpLaw, JumpTimes
from fastgen.methods.base import Distiller
from fastgen.methods.batch import MicroBatch
from fastgen.methods.velocity import DataVelocity, Velocity
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws, derive_seed
from fastgen.run_facts import RunFacts, idle_options
from fastgen.sampling.guided import Guided


@dataclass(frozen=True)
class TeacherGuidance:
    """Classifier-free guidance of the teacher in a flow-map method: a scale, or a range to draw from per sample.

    Args:
        low: Lowest scale, with 1 for none; LCM draws from 6 to 16 (its w is the scale minus 1).
        high: Highest scale; ``None`` means always ``low``.
        embedded: The student is told the scale, by an input that it has (FLUX.1-dev, LCM's U-Nets) or gets. U-Nets get
            that of diffusers' LCM checkpoints, so that their pipelines can be told ``guidance_scale``.
        sampling: The scale that an embedded student is told when it generates; ``None`` is the middle of the range.
    """

    low: float = 1.0
    high: float | None = None
    embedded: bool = False
    sampling: float | None = None

    def __post_init__(self) -> None:
        checks.not_negative(self, low=self.low, high=self.high, sampling=self.sampling)
        checks.ascending(self, low=self.low, high=self.high)

    @property
    def active(self) -> bool:
        """Whether the null condition is ever needed."""
        return (self.low, self.high or self.low) != (1.0, 1.0)

    def draw(self, draws: Draws) -> Tensor:
        """One scale per sample, (B,), fp64."""
        return self.low + ((self.high or self.low) - self.low) * draws.uniform("guidance")

    def when_sampling(self) -> float:
        """The scale that an embedded student is told when it generates."""
        return 0.5 * (self.low + (self.high or self.low)) if self.sampling is None else self.sampling


@dataclass(frozen=True)
class MapState:
    """A point from which the student jumps, and what is known about it.

    Attributes:
        times: ``s <= r <= t``, (B,).
        x_t: The point, (B, ...), in the coordinates of the method.
        x0: The datum it was made of.
        noise: The noise it was made of.
        condition: What the student is asked for.
        dropped: Whose condition was dropped, (B,).
        guidance: The teacher's guidance scale, (B,).
    """

    times: JumpTimes
    x_t: Tensor
    x0: Tensor
    noise: Tensor
    condition: Condition
    dropped: Tensor
    guidance: Tensor

    def part(self, rows: Tensor) -> MapState:
        """The same for the samples ``rows`` (b,) of the batch."""
        return MapState(
            times=JumpTimes(self.times.t[rows], self.times.s[rows], self.times.r[rows]),
            x_t=self.x_t[rows],
            x0=self.x0[rows],
            noise=self.noise[rows],
            condition=select(self.condition, rows),
            dropped=self.dropped[rows],
            guidance=self.guidance[rows],
        )


class FlowMapDistiller(Distiller, ABC):
    """Times, state, target, loss: a method overrides :meth:`map_loss` and picks defaults.

    The student's map from t to s is the process's jump along its prediction (``fastgen.objectives.flow_maps``), so any
    denoiser is one; with ``two_times`` it is also told where the jump ends. The loss may live in the coordinates of
    another process than the networks', which are then seen through :class:`~fastgen.denoisers.warped.Warped`; samples
    are drawn on the student's own process, where the same prediction is the same map.

    Args:
        times: Law of the times of a jump.
        velocity: What moves the state; default the data themselves.
        coordinates: Process whose time and velocity the loss is written in; the student's own if it is of this kind.
        guidance: Guidance of the teacher.
        target: Name of the EMA whose weights make the target; ``None`` is the student itself. Add the EMA callback.
        condition_dropout: Probability of training on the null condition.
    """

    two_times = False

    def __init__(
        self,
        times: JumpLaw,
        velocity: Velocity | None = None,
        coordinates: Process | None = None,
        guidance: TeacherGuidance = TeacherGuidance(),
        target: str | None = None,
        condition_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, condition_dropout=condition_dropout)
        super().__init__(**kwargs)
        self.times = times
        self.velocity = velocity or DataVelocity()
        self.wanted_coordinates = coordinates
        self.guidance = guidance
        self.target = target
        self.condition_dropout = condition_dropout

    # ------------------------------------------------------------------ roles

    def prepare_student(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "adapters"))  # new weights are a function of the run's seed
            if self.two_times:
                self.student.add_second_time()
            if self.guidance.embedded:
                self.student.add_guidance_input()

    def build_roles(self) -> None:
        if self.needs_teacher() and self.teacher is None:
            raise UserError(f"{type(self).__name__} asks a teacher here; give model.init_args.teacher.")
        own, wanted = self.student.process, self.wanted_coordinates
        self.coordinates = own if wanted is None or isinstance(own, type(wanted)) else wanted
        last = torch.tensor(own.t_max, dtype=torch.float64, device="cpu")
        self.t_max = own.t_max if self.coordinates is own else float(self.coordinates.time(own.ratio(last)))

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        yield from super().without_effect(run)
        told = {"guidance": self.guidance.active, "condition_dropout": self.condition_dropout > 0}
        yield from idle_options(run, told)
        if self.teacher is not None and not self.needs_teacher() and not self.extras:
            yield (
                f"{type(self).__name__} learns from the data, the teacher only starts the student and is compared with "
                "it; to learn from the teacher set model.init_args.velocity (or transition) to one of the teacher."
            )

    def needs_teacher(self) -> bool:
        """Whether training asks a teacher."""
        return self.velocity.needs_teacher

    def target_network(self) -> Denoiser:
        """The network that makes targets.

        Raises:
            UserError: If it is an average that nobody keeps.
        """
        if self.target is None:
            return self.student
        if self.target not in self.averages:
            raise UserError(
                f"The target is the EMA '{self.target}', which does not exist; add the callback EMA with that name."
            )
        return self.network(self.target)

    # ------------------------------------------------------------------ calls

    def predict(
        self, network: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, state: MapState, condition: Condition | None = None
    ) -> Prediction:
        """A student's prediction at ``x_t`` for the jump from ``t`` to ``s``, in the coordinates of the method."""
        condition = state.condition if condition is None else condition
        if self.guidance.embedded:
            condition = {**condition, "guidance": state.guidance}
        return seen_on(network, self.coordinates)(x_t, t, condition, s if self.two_times else None)

    def diagonal(self, state: MapState, condition: Condition | None = None) -> Tensor:
        """The student's own velocity at the state: the map that goes nowhere."""
        t = state.times.t
        return self.predict(self.target_network(), state.x_t, t, t, state, condition).velocity

    def guided_teacher(self, state: MapState) -> Denoiser:
        """The teacher with this batch's guidance, in the coordinates of the method."""
        assert self.teacher is not None  # build_roles
        guided = self.guidance.active and bool(state.condition)
        return seen_on(Guided(self.teacher, state.guidance) if guided else self.teacher, self.coordinates)

    def told(self, condition: Condition, draws: Draws) -> Condition:
        if not self.guidance.embedded:
            return condition
        scale = torch.full((len(draws),), self.guidance.when_sampling(), device=draws.device)
        return {**condition, "guidance": scale}

    # ------------------------------------------------------------------ training

    def state(self, part: MicroBatch) -> MapState:
        """Where the student is asked: real samples at drawn times."""
        if part.x0 is None:
            raise UserError(f"{type(self).__name__} needs real samples; the data module gives none ('x0' is missing).")
        draws = part.draws.scoped("student")
        times = self.times.sample(draws, self.coordinates, self.student_updates).at_most(self.t_max)
        noise = draws.normal("noise", part.x0.shape[1:], part.x0.dtype)
        condition, dropped = part.condition, draws.uniform("dropout") < self.condition_dropout
        if self.condition_dropout > 0 and condition:
            condition = where(dropped, self.student.null_condition(condition), condition)
        x_t = self.coordinates.add_noise(part.x0, noise, times.t)
        return MapState(times, x_t, part.x0, noise, condition, dropped, self.guidance.draw(draws))

    def where_it_jumps(self, state: MapState, answer: Callable[..., Tensor], *more: Tensor) -> Tensor:
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
