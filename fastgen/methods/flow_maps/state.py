"""What a flow map is asked, and whom: a state and the networks, in the coordinates of a method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen.conditions import Condition, select
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import Guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.errors import UserError
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.times import JumpTimes


@dataclass(frozen=True)
class MapState:
    """A point from which the student jumps, and what is known about it.

    Attributes:
        times: ``s <= r <= t``, (B,).
        x_t: The point, (B, ...), in the coordinates of the method.
        x0: The datum it was made of, (B, ...); ``None`` where the point lies on a path from noise alone.
        noise: The standard normal noise it was made of, or that its path began with, (B, ...).
        condition: What the student is asked for.
        dropped: Whose condition was dropped, (B,).
        guidance: The teacher's guidance scale, (B,).
        draws: Random numbers of their own for what happens after the state was drawn; ``None`` where nothing does.
        velocity: The velocity at the point, (B, ...), where it is known already.
    """

    times: JumpTimes
    x_t: Tensor
    x0: Tensor | None
    noise: Tensor
    condition: Condition
    dropped: Tensor
    guidance: Tensor
    draws: Draws | None = None
    velocity: Tensor | None = None

    def datum(self, asking: object) -> Tensor:
        """The datum, (B, ...), for one that cannot do without.

        Raises:
            UserError: If there is none.
        """
        if self.x0 is None:
            raise UserError(
                f"{type(asking).__name__} needs the real sample that a state was made of, and these states have none; "
                "take velocity: TeacherVelocity and transition: TeacherStep, or states: RealData."
            )
        return self.x0

    def fresh(self, asking: object) -> Draws:
        """The random numbers, for one that cannot do without.

        Raises:
            UserError: If there are none.
        """
        if self.draws is None:
            raise UserError(f"{type(asking).__name__} draws noise, which the states of this method do not have.")
        return self.draws

    def part(self, rows: Tensor) -> MapState:
        """The same for the samples ``rows`` (b,) of the batch."""
        return MapState(
            times=JumpTimes(self.times.t[rows], self.times.s[rows], self.times.r[rows]),
            x_t=self.x_t[rows],
            x0=None if self.x0 is None else self.x0[rows],
            noise=self.noise[rows],
            condition=select(self.condition, rows),
            dropped=self.dropped[rows],
            guidance=self.guidance[rows],
        )


@dataclass(frozen=True)
class MapNetworks:
    """Whom a flow map may ask, and the coordinates in which it asks.

    Attributes:
        student: What learns.
        target: What makes targets: the student, or an earlier or averaged one.
        teacher: The frozen teacher, if there is one.
        coordinates: The process whose time and velocity losses are written in.
        t_max: The noisiest time there that the student knows.
        two_times: Whether students are told where their jump ends.
        embedded: Whether students are told the teacher's guidance scale.
        guided: Whether the teacher is guided at all.
    """

    student: Denoiser
    target: Denoiser
    teacher: Denoiser | None
    coordinates: Process
    t_max: float
    two_times: bool = False
    embedded: bool = False
    guided: bool = False

    def predict(
        self, network: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, state: MapState, condition: Condition | None = None
    ) -> Prediction:
        """A student's prediction at ``x_t`` (B, ...) for the jump from ``t`` to ``s``, both (B,).

        Args:
            network: The student, or another with the same inputs.
            x_t: The point.
            t: Its time.
            s: Where the jump ends.
            state: Whose condition and guidance scale it is told.
            condition: What it is told instead of the state's condition.
        """
        condition = state.condition if condition is None else condition
        if self.embedded:
            condition = {**condition, "guidance": state.guidance}
        return on_process(network, self.coordinates)(x_t, t, condition, s if self.two_times else None)

    def diagonal(self, x_t: Tensor, t: Tensor, state: MapState, condition: Condition | None = None) -> Tensor:
        """The target's own velocity (B, ...) at ``x_t``, ``t``: the map that goes nowhere."""
        return self.predict(self.target, x_t, t, t, state, condition).velocity

    def guided_teacher(self, state: MapState) -> Denoiser:
        """The teacher in these coordinates, with the guidance scales of a state."""
        assert self.teacher is not None  # FlowMapDistiller.build_roles
        guided = self.guided and bool(state.condition)
        return on_process(Guided(self.teacher, state.guidance) if guided else self.teacher, self.coordinates)
