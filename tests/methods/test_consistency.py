"""Discrete consistency on Gaussians, whose map is known: zero residuals, values and gradients by hand (fp64)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gaussian_maps import PROCESSES, ExactStep, Fixed, exact_map, exact_velocity, loss_and_gradient, made, micro_batch
from torch import Tensor
from toys import StopAfter, ToyData, build, trainer

import fastgen.methods
from fastgen.distiller.averaging import ConstantEMA
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods import CD, CT, ICT, FlowMapDistiller
from fastgen.methods.consistency.grid_ema import GridEMA
from fastgen.methods.flow_maps.targets import EMATarget, StudentTarget
from fastgen.objectives.metrics import PseudoHuber, SquaredError
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, Process
from fastgen.randomness import Draws
from fastgen.times import DoublingLevels, GridTimes, GrowingGrid, LogNormalGrid, SquareRootLevels, time_of_level

by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
COARSE = GrowingGrid(SquareRootLevels(8, 8, 1), 0.02, 20.0)
EXACT: dict[type[FlowMapDistiller], dict[str, Any]] = {
    CD: {"times": GridTimes(10), "target": StudentTarget()},
    CT: {"times": COARSE, "target": StudentTarget()},
    ICT: {"times": LogNormalGrid(DoublingLevels(8, 8, 1), 0.02, 20.0), "weight": UniformWeight()},
}
"""Settings with which a rule's residual is that of the exact map."""


def lowest(process: Process, t: Tensor) -> Tensor:
    """The end of jumps on grids that begin at the level 0.02."""
    return time_of_level(process, torch.full_like(t, 0.02))


ENDS: dict[type[FlowMapDistiller], Callable[[Process, Tensor], Tensor]] = {CT: lowest, ICT: lowest}
"""Where the jumps of a rule end, if that is not data."""


def slope_to_data(x: Tensor, t: Tensor) -> Tensor:
    """The mean velocity of EDM's exact map from ``t`` to data."""
    return (x - exact_map(EDM(), x, t, torch.zeros_like(t))) / t[:, None]


# ---------------------------------------------------------------------- zero residuals (specification 8.1)


def test_every_method_of_the_room_has_a_residual():
    exported = (getattr(fastgen.methods, name) for name in fastgen.methods.__all__)
    room = {cls for cls in exported if cls.__module__.startswith("fastgen.methods.consistency.")}
    assert room == EXACT.keys()


@by_process
@pytest.mark.parametrize("cls", EXACT, ids=lambda cls: cls.__name__)
def test_the_exact_map_has_no_residual(cls: type[FlowMapDistiller], process: Process):
    settings = EXACT[cls] | {"transition": ExactStep(), "metric": PseudoHuber()}
    end = ENDS.get(cls, lambda process, t: torch.full_like(t, process.t_clean))
    settings["to_data"] = partial(end, process)  # no network here is told where its jump ends
    loss, _ = loss_and_gradient(made(cls, process, **settings))
    assert loss < 1e-8
    assert loss_and_gradient(made(cls, process, 1.2, **settings))[0] > 1e-3


# ---------------------------------------------------------------------- CD, CT, iCT


def test_cd_by_hand():
    """One Heun step of the teacher, the average's jump to data, the mean of squares; the gradient of one jump only."""
    t, r = 1.5, 1.1
    method = made(CD, EDM(), 1.3, True, times=Fixed(t, 0.0, r))
    with torch.no_grad():
        method.target_weights[0].scale.fill_(0.8)
    loss, gradient = loss_and_gradient(method)
    state = method.state(micro_batch())
    x, at, then = state.x_t, state.times.t, state.times.r
    first = exact_velocity(EDM(), x, at)
    x_r = x + 0.5 * (r - t) * (first + exact_velocity(EDM(), x + (r - t) * first, then))
    target = x_r - r * 0.8 * slope_to_data(x_r, then)
    difference = x - t * 1.3 * slope_to_data(x, at) - target
    torch.testing.assert_close(loss, difference.square().mean(), rtol=1e-6, atol=0)  # copies are kept in fp32
    expected = (2 * difference * -t * slope_to_data(x, at) / 3).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_ct_by_hand():
    """The same noise at both levels; the student is the identity at the lowest, which is no clean level."""
    t, s, r = 1.5, 0.4, 0.9
    method = made(CT, EDM(), 1.3, True, times=Fixed(t, s, r), target=StudentTarget())
    loss, _ = loss_and_gradient(method)
    state = method.state(micro_batch())

    def f(x: Tensor, at: Tensor) -> Tensor:
        return x + (s - at)[:, None] * 1.3 * slope_to_data(x, at)

    expected = f(state.x_t, state.times.t) - f(state.x0 + r * state.noise, state.times.r)
    torch.testing.assert_close(loss, expected.square().mean(), rtol=1e-12, atol=0)
    cleanest = made(CT, EDM(), 1.3, True, times=Fixed(t, s, s), target=StudentTarget())
    state = cleanest.state(micro_batch())
    torch.testing.assert_close(cleanest.bootstrap(state), state.x0 + s * state.noise, rtol=0, atol=0)


def test_ict_by_hand():
    """``(sqrt(|d|^2 + c^2) - c) / (sigma_t - sigma_r)``, ``c = 0.00054 sqrt(3)``."""
    t, s, r = 1.5, 0.4, 0.9
    method = made(ICT, EDM(), 1.3, True, times=Fixed(t, s, r))
    loss, gradient = loss_and_gradient(method)
    state = method.state(micro_batch())
    slope = slope_to_data(state.x_t, state.times.t)
    x_r = state.x0 + r * state.noise
    output = state.x_t + (s - t) * 1.3 * slope
    difference = output - (x_r + (s - r) * 1.3 * slope_to_data(x_r, state.times.r))
    c = 0.00054 * math.sqrt(3)
    norm = (difference.square().sum(1) + c * c).sqrt()
    torch.testing.assert_close(loss, ((norm - c) / (t - r)).mean(), rtol=1e-12, atol=0)
    expected = (difference / norm[:, None] * (s - t) * slope).mean(0) / (t - r)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_grid_of_consistency_training_grows():
    """By hand: sqrt of 4, of (201^2 - 4) / 4 + 4, of 201^2."""
    law = SquareRootLevels(2, 200, 800000)
    assert [law.levels(k) for k in (0, 1, 200000, 800000, 900000)] == [2, 3, 101, 201, 201]
    assert all(law.levels(k) <= law.levels(k + 7000) for k in range(0, 800000, 7000))


def test_the_grid_of_improved_training_doubles():
    """Seven doublings from 10 to 1280 in eight stages of K' updates."""
    law = DoublingLevels(10, 1280, 400000)
    assert law.stage_updates == 50000
    found = [law.levels(k) for k in (0, 49999, 50000, 100000, 349999, 350000, 10**9)]
    assert found == [11, 11, 21, 41, 641, 1281, 1281]


def test_averages_of_consistency_training_slow_down():
    """``exp(2 log 0.95 / N(k))``, 0.95 at first for s0 = N(0) = 2."""
    rule = GridEMA(SquareRootLevels(2, 200, 800000))
    assert abs(rule.beta(0, 0, 1) - 0.95) < 1e-12
    assert abs(rule.beta(200000, 0, 1) - 0.95 ** (2 / 101)) < 1e-12
    method = build(CT, times=GrowingGrid(SquareRootLevels(3, 9, 10)))
    assert method.target == EMATarget(GridEMA(SquareRootLevels(3, 9, 10)))


@by_process
def test_neighbours_of_a_growing_grid(process: Process):
    """Levels of the rho grid, from neighbour to neighbour, and the lowest for an end."""
    law = GrowingGrid(SquareRootLevels(4, 9, 100), 0.1, 5.0)
    for update, count in ((0, 4), (100, 10)):
        times = law.sample(Draws(0, range(400), "grid"), process, update)
        grid = torch.linspace(0.1 ** (1 / 7), 5.0 ** (1 / 7), count, dtype=torch.float64).pow(7)
        t, s, r = (process.ratio(time) for time in (times.t, times.s, times.r))
        index = (r[:, None] - grid).abs().argmin(1)
        torch.testing.assert_close(r, grid[index], rtol=1e-6, atol=0)
        torch.testing.assert_close(t, grid[index + 1], rtol=1e-6, atol=0)
        torch.testing.assert_close(s, grid[:1].expand(400), rtol=1e-6, atol=0)
        shares = index.bincount(minlength=count - 1) / 400
        assert (shares - 1 / (count - 1)).abs().max() < 0.08 and len(shares) == count - 1


def test_log_normal_neighbours():
    """The share of a pair is the mass of the normal law between the logarithms of its levels."""
    law = LogNormalGrid(DoublingLevels(6, 6, 1), 0.05, 10.0, mean=-0.5, std=1.5)
    r = law.sample(Draws(0, range(20000), "grid"), EDM(), 0).r
    grid = torch.linspace(0.05 ** (1 / 7), 10.0 ** (1 / 7), 7, dtype=torch.float64).pow(7)
    mass = torch.distributions.Normal(-0.5, 1.5).cdf(grid.log()).diff()
    found = (r[:, None] - grid).abs().argmin(1).bincount(minlength=6) / 20000
    assert (found - mass / mass.sum()).abs().max() < 0.012


class Doubled(PerceptualDistance):
    """Twice the squares of what people see."""

    def forward(self, samples: Tensor, targets: Tensor) -> Tensor:
        return 2 * (samples - targets).square().sum(1)


@pytest.mark.parametrize("cls", [CD, CT])
def test_a_perceptual_distance_is_one_of_decoded_samples(cls: type[FlowMapDistiller]):
    """The toys' codec stretches the two coordinates by 2 and 0.5."""
    method = build(cls, perceptual=Doubled)
    method.configure_model()
    x, y = torch.randn(5, 2), torch.randn(5, 2)
    expected = 2 * ((x - y) * torch.tensor([2.0, 0.5])).square().sum(1)
    torch.testing.assert_close(method.distance(x, y), expected)
    plain = build(cls)
    plain.configure_model()
    torch.testing.assert_close(plain.distance(x, y), (x - y).square().mean(1))
    assert not any("distance" in name for name in method.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_a_curriculum_and_its_average_survive_a_resume(tmp_path: Path):
    def fitted(*callbacks: Any, **kwargs: Any) -> Any:
        method = build(CT, times=GrowingGrid(SquareRootLevels(2, 9, 6)), seed=3)
        method.optimizer_factories["student"] = partial(torch.optim.Adam, lr=1e-2)
        trainer(6, *callbacks).fit(method, ToyData(batch_size=4), weights_only=True, **kwargs)
        return method

    path = str(tmp_path / "half.ckpt")
    straight, resumed = fitted(StopAfter(6, 3, path)), fitted(ckpt_path=path)
    one, other = straight.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert int(resumed.target_weights.updates) == 6
    plain = build(CT, target=EMATarget(ConstantEMA(0.5)))
    assert plain.target == EMATarget(ConstantEMA(0.5)) and isinstance(plain.metric, SquaredError)
