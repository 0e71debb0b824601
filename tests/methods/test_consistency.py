"""Discrete consistency on Gaussians, whose map is known: zero residuals, values and gradients by hand (fp64)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gaussian_maps import (
    MEAN,
    PROCESSES,
    ExactStep,
    Fixed,
    deviation,
    exact_map,
    exact_velocity,
    loss_and_gradient,
    made,
    micro_batch,
)
from torch import Tensor
from toys import StopAfter, ToyData, build, trainer

import fastgen.methods
from fastgen.distiller.averaging import ConstantEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods import (
    CD,
    CT,
    CTM,
    ECT,
    ICT,
    MCM,
    PCM,
    SCM,
    TBCM,
    TCM,
    TDD,
    FlowMapDistiller,
    HyperSD,
    SCFlow,
    SCott,
)
from fastgen.methods.consistency.grid_ema import GridEMA
from fastgen.methods.consistency.mcm import OwnSamples
from fastgen.methods.consistency.motion import FrameDifferences, LearnedMotion, WholeClip
from fastgen.methods.consistency.sde_step import SDEStep
from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.targets import EMATarget, StudentTarget
from fastgen.methods.flow_maps.transition import TeacherStep
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.metrics import PseudoHuber, SquaredError
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler
from fastgen.sampling.solvers import Euler
from fastgen.times import (
    BoundaryLevel,
    DoublingLevels,
    EasyTimes,
    FlowTime,
    GridTimes,
    GrowingGrid,
    LogNormalGrid,
    NearbyTimes,
    SegmentTimes,
    SquareRootLevels,
    ToData,
    TruncatedLevel,
    UnionTimes,
    time_of_level,
)

by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
COARSE = GrowingGrid(SquareRootLevels(8, 8, 1), 0.02, 20.0)


class StraightToTheCleaner(Velocity):
    """The velocity whose Euler step to the cleaner time is the flow's own."""

    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        r = state.times.r
        return (exact_map(networks.coordinates, x_t, t, r) - x_t) / (r - t)[:, None]


NO_GUIDANCE = {"guidance": TeacherGuidance()}
FOUR = SegmentTimes(12, 4)
EXACT: dict[type[FlowMapDistiller], dict[str, Any]] = {
    CD: {"times": GridTimes(10), "target": StudentTarget()},
    CT: {"times": COARSE, "target": StudentTarget()},
    ICT: {"times": LogNormalGrid(DoublingLevels(8, 8, 1), 0.02, 20.0), "weight": UniformWeight()},
    TCM: {"times": EasyTimes(TruncatedLevel(scale=1.0, freedom=2.0), q=8.0, double=None), "weight": UniformWeight()},
    PCM: {"times": FOUR} | NO_GUIDANCE,
    TDD: {"times": UnionTimes(24)} | NO_GUIDANCE,
    HyperSD: {"times": SegmentTimes(12, 4, end="inside")} | NO_GUIDANCE,
    SCott: {"times": GridTimes(10, 3), "target": StudentTarget()} | NO_GUIDANCE,
    MCM: {"times": GridTimes(10), "motion": FrameDifferences()} | NO_GUIDANCE,
    SCFlow: {
        "times": NearbyTimes(FlowTime(0.05, 0.95), 0.5),
        "velocity": StraightToTheCleaner(),
        "truncation": 0.0,
        "start": 10**6,
    },
    TBCM: {"points": 4, "warmup": 0, "learned_weight": False, "c": 1.0, "sigma_data": 0.5},
}
"""Settings with which a rule's residual is that of the exact map."""
TOLD = (TDD, HyperSD)
"""Methods whose jumps end in many places of which their students are not told; here they are."""


def lowest(process: Process, t: Tensor) -> Tensor:
    """The end of jumps on grids that begin at the level 0.02."""
    return time_of_level(process, torch.full_like(t, 0.02))


def edge(process: Process, t: Tensor) -> Tensor:
    """The end of the segment of a time, of four."""
    edges = torch.tensor([process.t_clean, *FOUR.edges(process, 0)[::-1]], dtype=t.dtype)
    return edges[(torch.searchsorted(edges, t * (1 - 1e-9)) - 1).clamp(min=0)]


ENDS: dict[type[FlowMapDistiller], Callable[[Process, Tensor], Tensor]] = {CT: lowest, ICT: lowest, PCM: edge}
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
    settings: dict[str, Any] = dict(EXACT[cls])
    if issubclass(cls, DiscreteConsistency):
        settings |= {"transition": ExactStep(), "metric": PseudoHuber()}
    if cls in TOLD:
        cls = type(cls.__name__, (cls,), {"two_times": True})
    else:
        end = ENDS.get(cls, lambda process, t: torch.full_like(t, process.t_clean))
        settings["to_data"] = partial(end, process)
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


@pytest.mark.parametrize("cls", [CD, CT, CTM])
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


# ---------------------------------------------------------------------- TCM


def test_the_truncated_law_is_students():
    """With two degrees of freedom the distribution function is ``1/2 + x / (2 sqrt(2 + x^2))``."""
    law = TruncatedLevel(0.3, 0.8, 2.0, 1.5, 40.0)
    x = (law.sample(Draws(0, range(20000), "law"), EDM()).log() - 0.3) / 0.8

    def below(x: Tensor) -> Tensor:
        return 0.5 + x / (2 * (2 + x.square()).sqrt())

    ends = below((torch.tensor([1.5, 40.0], dtype=torch.float64).log() - 0.3) / 0.8)
    share = (below(x) - ends[0]) / (ends[1] - ends[0])
    assert share.min() >= 0 and share.max() <= 1
    assert (share.sort().values - torch.linspace(0, 1, 20000)).abs().max() < 0.013  # Kolmogorov at 0.2 per cent
    heavy = TruncatedLevel().sample(Draws(0, range(2000), "law"), EDM())
    assert heavy.min() >= 1.0 and heavy.max() <= 80.0 and 0.4 < (heavy > 1.3).double().mean() < 0.8


@by_process
def test_a_share_lies_on_the_boundary(process: Process):
    law = BoundaryLevel(TruncatedLevel(low=0.5, scale=1.0, freedom=2.0), 1.0, 0.25)
    level = process.ratio(law.sample(Draws(0, range(4000), "law"), process))
    drawn = TruncatedLevel(low=0.5, scale=1.0, freedom=2.0).sample(Draws(0, range(4000), "law"), EDM())
    assert level.min() > 1.0 - 1e-6
    expected = 0.25 + 0.75 * (drawn < 1.0).double().mean()  # what is drawn below lies on the boundary too
    assert abs(law.on_boundary(level).double().mean() - expected) < 0.02


def test_tcm_asks_the_first_stage_below_the_boundary():
    law = EasyTimes(TruncatedLevel(scale=1.0, freedom=2.0), q=8.0, double=None)
    method = made(TCM, EDM(), 1.3, True, times=law, boundary=0.5, metric=PseudoHuber(0.1))
    with torch.no_grad():
        method.student.scale.fill_(0.9)  # training goes on; the first stage stays 1.3
    part = micro_batch(64)
    state = method.state(part)
    t, r = state.times.t, state.times.r
    assert t.min() >= 1.0 and 0.3 < (t < 1.0001).double().mean() < 0.7
    assert bool((r[t < 1.0001] < 1.0).all()) and bool((r[t > 3.0] > 1.0).any())
    stage = 0.9 + 0.4 * (r <= 1.0).double()
    x_r, at = state.x0 + r[:, None] * state.noise, r.clamp(min=1e-9)
    target = torch.where((r > 0)[:, None], x_r - (at * stage)[:, None] * slope_to_data(x_r, at), state.x0)
    difference = state.x_t - (t * 0.9)[:, None] * slope_to_data(state.x_t, t) - target
    distance = (difference.square().sum(1) + 0.1**2).sqrt() - 0.1
    weight = (2.0 - 1.8 * (t < 1.0001).double()) / (t - r)
    loss, _ = loss_and_gradient(method, part)
    torch.testing.assert_close(loss, (weight * distance).mean(), rtol=1e-6, atol=0)  # copies are kept in fp32


@pytest.mark.filterwarnings("ignore")
def test_tcm_in_one_run(tmp_path: Path):
    """The first stage is ECT bit for bit; the second asks the student that it began with, also after a resume."""

    def fitted(cls: Any, updates: int, *callbacks: Any, ckpt: str | None = None, **kwargs: Any) -> Any:
        method = build(cls, seed=3, student_optimizer=partial(torch.optim.Adam, lr=1e-2), **kwargs)
        trainer(updates, *callbacks).fit(method, ToyData(batch_size=4), weights_only=True, ckpt_path=ckpt)
        return method

    path, two = str(tmp_path / "half.ckpt"), {"first_updates": 2, "metric": PseudoHuber(0.1)}
    first = fitted(ECT, 2, metric=PseudoHuber(0.1)).student.state_dict()
    straight = fitted(TCM, 5, StopAfter(5, 3, path), **two)
    kept = straight.target_weights[0].state_dict()
    assert all(torch.equal(first[name], kept[name]) for name in first)
    assert straight.truncated and straight.times.law == straight.law
    resumed = fitted(TCM, 5, ckpt=path, **two)
    one, other = straight.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert int(one["stage"]) == 1 and not fitted(TCM, 1, **two).truncated


# ---------------------------------------------------------------------- PCM, TDD, Hyper-SD


@by_process
def test_jumps_end_with_their_segment(process: Process):
    """Segments lie between the calls of a student of so many steps; the teacher's step does not cross their ends."""
    draws, calls = Draws(0, range(600), "segments"), process.student_grid(3)
    times = SegmentTimes(10, 3).sample(draws, process, 0)
    ends = [process.t_clean, *calls[::-1]]
    for t, s, r in zip(times.t.tolist(), times.s.tolist(), times.r.tolist(), strict=True):
        assert s == max(end for end in ends if end < t * (1 - 1e-9)) and s <= r < t
        below = [time for time in (*process.grid(10), process.t_clean) if time < t]
        assert r == max(s, max(below))
    assert len(times.s.unique()) == 3
    inside = SegmentTimes(10, 3, end="inside").sample(draws, process, 0)
    assert torch.equal(inside.t, times.t) and torch.equal(inside.r, times.r)
    assert bool((inside.s >= times.s).all()) and bool((inside.s <= times.r).all()) and len(inside.s.unique()) > 300


def test_segments_shrink_in_stages():
    law = SegmentTimes(16, (8, 4, 2, 1), 100)
    assert [len(law.edges(VP(), update)) for update in (0, 99, 100, 250, 300, 10**6)] == [8, 8, 4, 2, 1, 1]
    assert law.edges(RectifiedFlow(), 200) == [1.0, 0.5]
    with pytest.raises(UserError, match="segments"):
        SegmentTimes(4, (8, 2))


def test_pcm_by_hand():
    """A guided Euler step to r, jumps of both sides to one edge, the mean of the elements' Huber."""
    t, s, r, c = 1.5, 0.4, 1.1, 1e-3
    method = made(PCM, EDM(), 1.3, True, times=FOUR)
    method.times = Fixed(t, s, r)
    loss, gradient = loss_and_gradient(method)
    state = method.state(micro_batch())
    x, at, then = state.x_t, state.times.t, state.times.r
    x_r = x + (r - t) * exact_velocity(EDM(), x, at)
    slope = slope_to_data(x, at)
    difference = x + (s - t) * 1.3 * slope - (x_r + (s - r) * 1.3 * slope_to_data(x_r, then))
    root = (difference.square() + c * c).sqrt()
    torch.testing.assert_close(loss, (root - c).mean(), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, (difference / root * (s - t) * slope / 3).mean(0), rtol=1e-8, atol=1e-10)


def test_phases_and_calls_must_agree():
    with pytest.raises(UserError, match=r"as many steps as model\.init_args\.times has segments"):
        made(PCM, EDM(), times=SegmentTimes(12, 3))
    made(PCM, EDM(), times=SegmentTimes(12, 3), sampler=JumpSampler(steps=3))


def test_tdd_jumps_to_the_calls_of_some_students():
    """By hand on rectified flow: thirds and quarters of the way but the first call, and data."""
    law = UnionTimes(12, 3, 4, 0.3, 0.0)
    assert law.destinations(RectifiedFlow()) == pytest.approx([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75])
    times = law.sample(Draws(0, range(3000), "union"), RectifiedFlow(), 0)
    found: dict[int, set[int]] = {}
    for r, s in zip(times.r.tolist(), times.s.tolist(), strict=True):
        found.setdefault(round(12 * r), set()).add(round(12 * s))
    # In twelfths: the window reaches 3.6 below the noisiest of 0, 3, 4, 6, 8, 9 that is not noisier than r.
    noisiest = {11: 9, 10: 9, 9: 9, 8: 8, 7: 6, 6: 6, 5: 4, 4: 4, 3: 3, 2: 0, 1: 0, 0: 0}
    within = {9: {6, 8, 9}, 8: {6, 8}, 6: {3, 4, 6}, 4: {3, 4}, 3: {0, 3}, 0: {0}}
    assert found == {r: within[high] for r, high in noisiest.items()}
    relaxed = UnionTimes(12, 3, 4, 0.3, 0.5).sample(Draws(0, range(3000), "union"), RectifiedFlow(), 0)
    share = relaxed.s / times.s
    share = share[times.s > 0]
    assert share.min() > 0.5 and share.max() <= 1.0 and abs(share.mean() - 0.75) < 0.01
    assert bool((relaxed.s[times.s == 0] == 0).all())


@by_process
def test_tdd_never_jumps_up(process: Process):
    times = UnionTimes(30).sample(Draws(0, range(800), "union"), process, 0)
    assert bool((times.s <= times.r).all()) and bool((times.r < times.t).all()) and times.s.min() == process.t_clean


def test_tdd_decouples_its_guidance():
    """A fifth of the samples is trained without its condition, by the teacher and the student."""
    method = build(TDD, times=UnionTimes(24))
    method.configure_model()
    label = {"label": torch.arange(400) % 3}
    state = method.state(MicroBatch(torch.zeros(400, 2), label, Draws(0, range(400), "test")))
    assert 0.15 < (state.condition["label"] == 3).double().mean() < 0.25
    assert state.guidance.tolist() == [4.5] * 400


def test_hyper_sd_s_last_stage_jumps_anywhere():
    """Addendum F: with one segment it is CTM's consistency, t to any s below r; s = t is the identity of the map."""
    law = SegmentTimes(50, (2, 1), 10, "inside")
    s = law.sample(Draws(0, range(4000), "hyper"), RectifiedFlow(), 10)
    share = (s.s / s.r.clamp(min=1e-9))[s.r > 0]
    assert abs(share.mean() - 0.5) < 0.02 and share.max() > 0.99
    method = made(HyperSD, EDM(), 1.3, times=law, **NO_GUIDANCE)
    state = method.state(micro_batch())
    still = method.coordinates.jump(
        method.predict(method.student, state.x_t, state.times.t, state.times.t, state), state.times.t
    )
    torch.testing.assert_close(still, state.x_t, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- SCott


@by_process
def test_without_noise_a_stochastic_step_is_the_teachers(process: Process):
    method = made(SCott, process, times=GridTimes(10, 3), **NO_GUIDANCE)
    state = method.state(micro_batch())
    expected = TeacherStep(Euler()).step(method.networks, state)
    torch.testing.assert_close(SDEStep(1, 0.0).step(method.networks, state), expected, rtol=1e-10, atol=1e-12)


@by_process
def test_stochastic_steps_keep_the_marginal(process: Process):
    """Many steps of the exact teacher end in the law of x_r, whatever the share of the noise."""
    t, r = (float(time_of_level(process, torch.tensor(level, dtype=torch.float64))) for level in (2.0, 0.5))
    method = made(SCott, process, times=Fixed(t, process.t_clean, r), **NO_GUIDANCE)
    state = method.state(micro_batch(4000))
    alpha, wanted = deviation(process, state.times.r)
    ends = [SDEStep(60, eta).step(method.networks, state) for eta in (1.0, 0.3)]
    for x in ends:
        assert bool(((x - alpha * MEAN).mean(0).abs() < 4 * wanted[0] / 4000**0.5 + 0.02).all())
        assert bool((x.std(0) / wanted[0] - 1).abs().max() < 0.05)
    assert (ends[0] - ends[1]).std() > 0.1, "the noise is fresh"
    assert torch.equal(ends[0], SDEStep(60, 1.0).step(method.networks, state)), "and a function of the sample"


# ---------------------------------------------------------------------- MCM


def test_what_stands_still_is_no_motion():
    clips = torch.randn(2, 3, 5, 4, 4)
    moved = clips + torch.randn(2, 3, 1, 4, 4)
    motion = FrameDifferences().build((3, 5, 4, 4))
    torch.testing.assert_close(motion(clips), motion(moved), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(motion(clips), clips[:, :, 1:] - clips[:, :, :-1])
    assert WholeClip().build((3, 5, 4, 4))(clips) is clips
    assert motion(torch.randn(2, 3)).shape == (2, 2)


@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (3, 8, 8), (6,)], ids=["clip", "picture", "points"])
def test_a_learned_motion_begins_as_the_identity(shape: tuple[int, ...]):
    head = LearnedMotion(width=32).build(shape)
    x = torch.randn(2, *shape)
    assert torch.equal(head(x), x)
    with torch.no_grad():
        head.last.weight.add_(0.1)
    other = head(x)
    assert other.shape == x.shape and not torch.equal(other, x)
    if len(shape) == 4:  # frame by frame
        torch.testing.assert_close(head(x[:, :, 1:2]), other[:, :, 1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_average_of_a_learned_motion_follows_and_makes_the_target():
    method = build(
        MCM, student_optimizer=partial(torch.optim.Adam, lr=1e-2), head_decay=0.75, guidance=TeacherGuidance()
    )
    trainer(1).fit(method, ToyData(batch_size=4))
    kept, head = method.kept_motion[0].last.weight, method.motion.last.weight
    assert head.abs().max() > 0
    torch.testing.assert_close(kept, 0.25 * head)
    x, y = torch.randn(5, 2), torch.randn(5, 2)
    expected = method.metric(method.motion(x), method.kept_motion[0](y))
    torch.testing.assert_close(method.distance(x, y), expected)
    assert not torch.allclose(expected, method.metric(method.motion(x), method.motion(y)))
    assert {"motion.last.weight", "kept_motion.0.last.weight"} <= method.state_dict().keys()


def test_half_of_the_states_are_the_students_own():
    settings = {"times": GridTimes(10), "motion": WholeClip()} | NO_GUIDANCE
    part = micro_batch(200)
    method = made(MCM, EDM(), 1.3, True, states=OwnSamples(0.5), **settings)
    state = method.state(part)
    own = (state.x0 - part.x0).abs().amax(1) > 0
    assert 0.4 < own.double().mean() < 0.6
    noise = part.draws.scoped("student/own").normal("noise", (3,), torch.float64)
    t = torch.full((200,), 80.0, dtype=torch.float64)
    made_of_it = 80.0 * noise - 80.0 * 1.3 * slope_to_data(80.0 * noise, t)
    torch.testing.assert_close(state.x0[own], made_of_it[own], rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(state.x_t, EDM().add_noise(state.x0, state.noise, state.times.t))


# ---------------------------------------------------------------------- SCFlow


def test_scflow_by_hand():
    """Both points nearby by the teacher's velocity; the datum below the truncation; the way to the own sample."""
    flow, law = RectifiedFlow(), NearbyTimes(FlowTime(0.05, 0.95), 0.3, 0.0)
    settings = {"times": law, "start": 0, "metric": SquaredError(), "truncation": 0.4}
    method = made(SCFlow, flow, 1.3, True, backward=0.2, correction=0.3, **settings)
    with torch.no_grad():
        method.target_weights[0].scale.fill_(0.75)
    part = micro_batch(40)
    state = method.state(part)
    t, r, x = state.times.t, state.times.r, state.x_t
    up = t + part.draws.scoped("student/noisier").uniform("noisier") * (1 - t).clamp(max=0.3)
    u = part.draws.scoped("student").uniform("cleaner")
    torch.testing.assert_close(r, t - u * t.clamp(max=0.3))
    assert bool((r < 0.4).any()) and bool((r > 0.4).any())

    def x0(x: Tensor, t: Tensor, scale: float) -> Tensor:
        return x - scale * (x - exact_map(flow, x, t, torch.zeros_like(t)))

    v, one = exact_velocity(flow, x, t), torch.ones_like(t)
    cleaner = torch.where((r < 0.4)[:, None], part.x0, x0(x + (r - t)[:, None] * v, r, 0.75))
    noisier = x0(x + (up - t)[:, None] * v, up, 0.75)
    own = x0(state.noise, one, 1.3)
    way = x0((1 - t)[:, None] * own + t[:, None] * state.noise, t, 1.3)
    output = x0(x, t, 1.3)
    losses = method.student_loss(part)
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-12)  # copies are kept in fp32
    close(losses["consistency"].detach(), (output - cleaner).square().mean())
    close(losses["backward"].detach(), 0.2 * (output - noisier).square().mean())
    close(losses["correction"].detach(), 0.3 * (way - own).square().mean())
    (gradient,) = torch.autograd.grad(losses["correction"], method.student.scale)
    x_way = (1 - t)[:, None] * own + t[:, None] * state.noise
    rate = -(x_way - exact_map(flow, x_way, t, torch.zeros_like(t)))
    close(gradient, (0.3 * 2 * (way - own) * rate / 3).mean(0))
    later = made(SCFlow, flow, 1.3, True, **(settings | {"start": 1}))
    assert later.student_loss(part).keys() == {"consistency"}


def test_scflow_s_norm_is_of_each_element():
    """``mean_i sqrt(d_i^2 + c^2) - c``, c = 0.01 (huber_loss of the code)."""
    metric = build(SCFlow).metric
    x = torch.tensor([[0.01, -0.02, 0.3]], dtype=torch.float64, requires_grad=True)
    value = metric(x, torch.zeros_like(x))
    roots = torch.tensor([0.0002, 0.0005, 0.0901], dtype=torch.float64).sqrt()
    torch.testing.assert_close(value, (roots.mean() - 0.01).reshape(1), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, x.detach() / (3 * roots), rtol=1e-12, atol=0)


def test_the_reach_grows():
    law = NearbyTimes(reach=0.1, growth=0.25, every=10)
    assert [law.farthest(update) for update in (0, 9, 10, 25, 1000)] == pytest.approx([0.1, 0.1, 0.35, 0.6, 1.0])


# ---------------------------------------------------------------------- TBCM


def test_tbcm_learns_at_all_points_of_a_path():
    """TrigFlow's DDIM, ``x' = cos(d) x - sin(d) dx/dt``, from interval to interval, and the velocities on the way."""
    process, part = TrigFlow(0.5), micro_batch(6)
    settings = {"warmup": 0, "sigma_data": 0.5, "learned_weight": False}
    method = made(TBCM, process, 1.2, True, points=4, shift=2.5, **settings)
    state = method.state(MicroBatch(None, {}, part.draws))
    assert state.x_t.shape == (18, 3) and state.x0 is None
    t = state.times.t.unflatten(0, (3, 6))
    u = process.ratio(t) / 2.5  # as FlowTime shifts them
    u = u / (1 + u)
    for number, row in zip((2, 1, 0), u, strict=True):
        assert row.min() > number / 4 - 1e-9 and row.max() < (number + 1) / 4 + 1e-9
    now = torch.full((6,), process.t_max, dtype=torch.float64)
    x = process.start(method.state(MicroBatch(None, {}, part.draws)).noise[:6], now)
    for row, then in enumerate(t):
        angle = (now - then)[:, None]
        x, now = torch.cos(angle) * x - torch.sin(angle) * exact_velocity(process, x, now), then
        torch.testing.assert_close(state.x_t[6 * row : 6 * row + 6], x, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(state.velocity, exact_velocity(process, state.x_t, state.times.t), rtol=1e-8, atol=1e-9)
    other = made(SCM, process, 1.2, True, velocity=TeacherVelocity(), times=ToData(), **settings)
    expected = other.map_loss(state)["consistency"]
    torch.testing.assert_close(method.map_loss(state)["consistency"], expected, rtol=1e-10, atol=0)


def test_tbcm_calms_down():
    method = build(TBCM, warmup=10, calm=20, final=0.4)
    found = []
    for updates in (0, 5, 10, 20, 30, 100):
        method.loaded_updates = updates
        found.append(method.warmup_factor())
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.7, 0.4, 0.4])
