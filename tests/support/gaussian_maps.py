"""The exact flow map of a Gaussian as a student, on every process (closed form; fp64)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.denoisers.wrappers.second_time import NoiseAngles, SecondTimeForm
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.transition import Transition
from fastgen.objectives.flow_maps import jump_weights
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.times import JumpLaw, JumpTimes

MEAN = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
STD = torch.tensor([0.9, 0.4, 0.7], dtype=torch.float64)
COVARIANCE = torch.diag(STD.square())
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP(), "flow": RectifiedFlow(), "trig": TrigFlow(0.5)}


def deviation(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha (B, 1) and the standard deviation (B, D) of x_t."""
    alpha, sigma = (c[:, None] for c in process.coefficients(t))
    return alpha, (alpha.square() * STD.square() + sigma.square()).sqrt()


def exact_map(process: Process, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the flow takes ``x`` from ``t`` to ``s``: alpha_s m + (S_s / S_t) (x - alpha_t m)."""
    (alpha, here), (alpha_s, there) = deviation(process, t), deviation(process, s)
    return alpha_s * MEAN + there / here * (x - alpha * MEAN)


def exact_velocity(process: Process, x: Tensor, t: Tensor) -> Tensor:
    """The derivative of the flow: alpha' m + (S'/S) (x - alpha m)."""
    (alpha, here), sigma = deviation(process, t), process.sigma(t)[:, None]
    alpha_dot, sigma_dot = (c[:, None] for c in process.derivatives(t))
    return alpha_dot * MEAN + (alpha * alpha_dot * STD.square() + sigma * sigma_dot) / here.square() * (
        x - alpha * MEAN
    )


class ExactMap(Denoiser):
    """The exact map as a network with a second time; ``scale`` times it, which is a parameter that begins at 1.

    Without a second time it is the map to data, or to where a function of the time says.
    """

    def __init__(
        self, process: Process, to_data: bool | Callable[[Tensor], Tensor] = False, scale: float = 1.0
    ) -> None:
        super().__init__(process, "velocity", (3,))
        self.scale = nn.Parameter(torch.full((3,), scale, dtype=torch.float64))
        self.to_data = to_data

    @property
    def takes_second_time(self) -> bool:
        return not self.to_data

    def add_second_time(self, form: SecondTimeForm = NoiseAngles()) -> None:
        """It has one."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        clean = torch.full_like(t, self.process.t_clean)
        if self.to_data:
            s = self.to_data(t) if callable(self.to_data) else clean
        s = t if s is None else s
        a, b = (w[:, None] for w in jump_weights(self.process, t, s))
        still = b == 0
        mean = (exact_map(self.process, x_t, t, s) - a * x_t) / torch.where(still, torch.ones_like(b), b)
        return self.scale * torch.where(still, exact_velocity(self.process, x_t, t), mean)


def micro_batch(count: int = 16, seed: int = 0) -> MicroBatch:
    """Samples of the Gaussian with their draws."""
    draws = Draws(seed, range(count), "test")
    return MicroBatch(MEAN + STD * draws.normal("x0", (3,), torch.float64), {}, draws)


class ExactStep(Transition):
    """The flow itself, from t to r."""

    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        return exact_map(networks.coordinates, state.x_t, state.times.t, state.times.r)


class Fixed(JumpLaw):
    """Given times."""

    def __init__(self, t: float, s: float, r: float) -> None:
        self.values = t, s, r

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        return JumpTimes(*(torch.full((len(draws),), v, dtype=torch.float64) for v in self.values))


def made(cls: type[FlowMapDistiller], process: Process, scale: float = 1.0, to_data: Any = False, **kwargs: Any):
    """A method whose student is ``scale`` times the exact map and whose teacher is exact."""
    method = cls(
        student=partial(ExactMap, process, to_data, scale),
        teacher=partial(GaussianDenoiser, process, MEAN, COVARIANCE),
        **kwargs,
    )
    method.configure_model()
    return method


def loss_and_gradient(method: FlowMapDistiller, part: MicroBatch | None = None) -> tuple[Tensor, Tensor]:
    loss = torch.stack(list(method.student_loss(part or micro_batch()).values())).sum()
    (gradient,) = torch.autograd.grad(loss, method.student.scale)
    return loss.detach(), gradient
