"""Flow maps of two times on Gaussians, whose map is known: zero residuals, losses and gradients by hand (fp64)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from every_method import fit, make
from gaussian_maps import COVARIANCE, MEAN, PROCESSES, ExactMap, exact_map, exact_velocity, micro_batch
from torch import Tensor, nn
from toys import build

import fastgen.methods
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods import (
    AYF,
    BOOT,
    CTM,
    ESD,
    IMF,
    IMM,
    SCFM,
    TVM,
    AnyFlow,
    FlowMapDistiller,
    FreeFlow,
    MDTDist,
    MeanFlow,
    RestrictedMeanFlow,
    TraFlow,
)
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.targets import StudentTarget
from fastgen.methods.flow_maps.transition import TeacherWalk, Transition
from fastgen.methods.flow_maps.velocity import TeacherVelocity
from fastgen.methods.two_times.balance import GradientBalance, last_layer
from fastgen.methods.two_times.own_guidance import OwnGuidance
from fastgen.objectives.error_weights import AdaptiveWeight
from fastgen.objectives.tangents import ForwardMode
from fastgen.processes import EDM, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import GammaSampler, JumpSampler, RenoiseSampler
from fastgen.sampling.solvers import Euler, Heun
from fastgen.times import FromNoise, JumpLaw, JumpTimes, LogNormalLevel, SortedTimes, SubGridTimes

FLOW = RectifiedFlow()
PLAIN = AdaptiveWeight(power=0.0)
"""The squared error as it is."""
LEVELS = LogNormalLevel(0.0, 0.7)
UNGUIDED = TeacherGuidance()
smooth = pytest.mark.parametrize("name", ["flow", "edm", "trig"])
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


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


def made(cls: type[FlowMapDistiller], process: Process = FLOW, scale: float = 1.0, **kwargs: Any):
    """A method whose student is ``scale`` times the exact map and whose teacher is exact."""
    networks = {
        "student": partial(ExactMap, process, False, scale),
        "teacher": partial(GaussianDenoiser, process, MEAN, COVARIANCE),
    }
    method = cls(**networks | kwargs)
    method.configure_model()
    return method


def loss_and_gradient(method: FlowMapDistiller, part: MicroBatch | None = None) -> tuple[Tensor, Tensor]:
    loss = torch.stack(list(method.student_loss(part or micro_batch()).values())).sum()
    return loss.detach(), torch.autograd.grad(loss, method.student.scale)[0]


def column(times: Tensor) -> Tensor:
    return times[:, None]


def mean_velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Of the exact map on rectified flow, from t to s < t."""
    return (x - exact_map(FLOW, x, t, s)) / column(t - s)


RESIDUALS: dict[type[FlowMapDistiller], dict[str, Any]] = {
    ESD: {"times": SortedTimes(LEVELS, diagonal=0.3), "velocity": TeacherVelocity(), "learned_weight": False},
    IMF: {
        "times": SortedTimes(LEVELS, diagonal=0.3, to_data=0.3),
        "velocity": TeacherVelocity(),
        "guidance": UNGUIDED,
        "weight": PLAIN,
    },
    CTM: {"times": SubGridTimes(8, 5), "transition": ExactStep(), "denoising_weight": 0.0, "target": StudentTarget()},
    AYF: {"times": SortedTimes(LEVELS, diagonal=0.3), "guidance": UNGUIDED, "warmup": 0, "largest": 1.0},
    AnyFlow: {
        "times": SortedTimes(LEVELS, diagonal=0.3),
        "velocity": TeacherVelocity(),
        "derivative": ForwardMode(),
        "coordinates": FLOW,
    },
    TraFlow: {"times": SortedTimes(LEVELS, diagonal=0.3), "path": ExactStep(), "target": StudentTarget()},
    FreeFlow: {"times": FromNoise(LEVELS), "extras": []},
    RestrictedMeanFlow: {"times": SortedTimes(LEVELS, diagonal=0.3), "weight": PLAIN},
    TVM: {
        "times": SortedTimes(LEVELS, diagonal=0.3),
        "velocity": TeacherVelocity(),
        "target": StudentTarget(),
        "flow_time": LEVELS,
    },
}
"""By method: what makes it leave the exact map alone."""
APART = {BOOT, IMM, SCFM, MDTDist}
"""Those of first order, that compare sets or normalise what vanishes, or that tell one time: they have own tests."""


@pytest.mark.parametrize("cls", RESIDUALS, ids=lambda cls: cls.__name__)
@smooth
def test_the_exact_map_is_left_alone(cls: type[FlowMapDistiller], name: str):
    """In the coordinates of every process (specification 8.1)."""
    settings = {"coordinates": PROCESSES[name]} | RESIDUALS[cls]
    loss, gradient = loss_and_gradient(made(cls, PROCESSES[name], **settings))
    assert loss < 1e-12 and gradient.norm() < 1e-6
    assert loss_and_gradient(made(cls, PROCESSES[name], 1.2, **settings))[0] > 1e-3


def test_every_method_of_this_room_is_above():
    exported = (getattr(fastgen.methods, name) for name in fastgen.methods.__all__)
    room = {cls for cls in exported if cls.__module__.startswith("fastgen.methods.two_times.")}
    assert room == {*RESIDUALS, *APART}


# ---------------------------------------------------------------------- ESD


@pytest.mark.parametrize("stopped", ["spatial", "velocity", "nothing"])
def test_esd_by_hand(stopped: str):
    """``R = F - v + (t - s) (dF/dt + grad F . v)`` with F and v of the student; what is stopped has no gradient."""
    t, s, scale = 0.8, 0.3, 1.2
    method = made(ESD, FLOW, scale, times=Fixed(t, s, s), learned_weight=False, stopped=stopped)
    loss, gradient = loss_and_gradient(method)
    state, h = method.state(micro_batch()), 1e-5
    x, at, to = state.x_t, state.times.t, state.times.s
    v = exact_velocity(FLOW, x, at)  # times the scale is the student's own
    along = (mean_velocity(x + h * v, at, to) - mean_velocity(x - h * v, at, to)) / (2 * h)  # linear in x
    in_time = (mean_velocity(x, at + h, to) - mean_velocity(x, at - h, to)) / (2 * h)
    mean = mean_velocity(x, at, to)
    residual = scale * mean - scale * v + (t - s) * (scale * in_time + scale * scale * along)
    slopes = {
        "spatial": mean + (t - s) * in_time,
        "velocity": mean + (t - s) * (in_time + scale * along),
        "nothing": mean - v + (t - s) * (in_time + 2 * scale * along),
    }
    torch.testing.assert_close(loss, residual.square().sum(1).mean(), rtol=1e-7, atol=0)
    torch.testing.assert_close(gradient, (2 * residual * slopes[stopped]).mean(0), rtol=1e-6, atol=1e-7)


def test_esd_and_mean_flow_match_the_same_flow_on_the_diagonal():
    """Where jumps go nowhere both are flow matching on the data's velocity."""
    settings = {"times": SortedTimes(LEVELS, diagonal=1.0)}
    one = loss_and_gradient(made(ESD, FLOW, 1.2, learned_weight=False, **settings))
    other = loss_and_gradient(made(MeanFlow, FLOW, 1.2, weight=PLAIN, **settings))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


# ---------------------------------------------------------------------- iMF


def test_imf_by_hand():
    """V = u + (t - s) sg[du/dt] along the student's own velocity learns v; the own velocity learns v too."""
    t, s, scale, c, power, own_weight = 0.8, 0.3, 1.2, 0.05, 0.5, 0.7
    settings = {"weight": AdaptiveWeight(c, power), "guidance": UNGUIDED, "own_weight": own_weight}
    method = made(IMF, FLOW, scale, times=Fixed(t, s, s), **settings)
    loss, gradient = loss_and_gradient(method)
    state, h = method.state(micro_batch()), 1e-5
    x, at, to = state.x_t, state.times.t, state.times.s
    v, own = state.noise - state.x0, exact_velocity(FLOW, x, at)
    assert torch.equal(state.x0, micro_batch().x0), "nothing is dropped without a condition"
    along = scale * own
    rate = scale * (mean_velocity(x + h * along, at + h, to) - mean_velocity(x - h * along, at - h, to)) / (2 * h)
    gaps = scale * mean_velocity(x, at, to) + (t - s) * rate - v, scale * own - v
    expected, slope = 0.0, torch.zeros(3, dtype=torch.float64)
    for gap, rise, factor in zip(gaps, (mean_velocity(x, at, to), own), (1.0, own_weight), strict=True):
        error = gap.square().sum(1)
        weight = (error + c) ** -power
        expected = expected + factor * (weight * error).mean()
        slope = slope + factor * (2 * weight[:, None] * gap * rise).mean(0)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-7)


class Told(ExactMap):
    """The exact map, by which a condition and its absence differ."""

    num_classes = 1

    def predict(self, x_t: Tensor, t: Tensor, condition: Any, s: Tensor | None = None) -> Tensor:
        effect = 1.0 + 0.5 * condition["label"].double()[:, None]
        return effect * super().predict(x_t, t, condition, s)

    def null_condition(self, condition: Any) -> Any:
        return {name: torch.zeros_like(value) for name, value in condition.items()}


def test_a_student_guides_itself_at_the_scale_that_it_is_told():
    """``v + (1 - 1/w) (u(c) - u(null))``; plain v where the condition is dropped and outside of the interval."""
    guidance = TeacherGuidance(1.0, 8.0, power=1.0)
    method = made(IMF, student=partial(Told, FLOW), guidance=guidance, condition_dropout=0.4)
    part = micro_batch(64)
    part.condition = {"label": torch.ones(64, dtype=torch.int64)}
    state = method.state(part)
    v, t = state.noise - state.x0, state.times.t
    assert 10 < int(state.dropped.sum()) < 40
    for low, high in ((0.0, 1.0), (0.3, 0.6)):
        found = OwnGuidance(low, high).at(method.networks, state.x_t, t, state)
        share = (1 - 1 / state.guidance) * (~state.dropped & (t >= low) & (t <= high)).double()
        expected = v + share[:, None] * 0.5 * exact_velocity(FLOW, state.x_t, t)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    unguided = made(IMF, student=partial(Told, FLOW), guidance=UNGUIDED)
    assert torch.equal(OwnGuidance().at(unguided.networks, state.x_t, t, state), v)


def test_scales_of_guidance_follow_a_power():
    draws = Draws(0, range(20000), "test")
    for power in (0.0, 1.0, 2.0):
        scale = TeacherGuidance(1.0, 8.0, power=power).draw(draws)
        assert scale.min() >= 1.0 and scale.max() <= 8.0
        low = {0.0: 1 / 7, 1.0: math.log(2) / math.log(8), 2.0: (1 - 1 / 2) / (1 - 1 / 8)}[power]  # below 2
        assert abs((scale < 2).double().mean() - low) < 0.012
    assert torch.equal(TeacherGuidance(6.0, 16.0).draw(draws), 6.0 + 10.0 * draws.uniform("guidance"))


# ---------------------------------------------------------------------- CTM


def test_ctm_by_hand():
    """Both ends are taken on clean data by G-, through which the gradient runs; the target has none."""
    process, scale, t, r, s = EDM(), 1.2, 3.0, 1.5, 0.6
    method = made(CTM, process, scale, times=Fixed(t, s, r), transition=ExactStep(), denoising_weight=0.0)
    with torch.no_grad():
        method.target_weights[0].scale.fill_(0.9)
    loss, gradient = loss_and_gradient(method)
    state = method.state(micro_batch())

    def mean(x: Tensor, t: float, s: float) -> Tensor:
        ends = (torch.full((16,), end, dtype=torch.float64) for end in (t, s))
        return (exact_map(process, x, *ends) - x) / (s - t)

    def jump(x: Tensor, t: float, s: float, scale: float) -> Tensor:
        return x + (s - t) * scale * mean(x, t, s)

    x_r = exact_map(process, state.x_t, state.times.t, state.times.r)
    at_s = jump(state.x_t, t, s, scale)
    gap = jump(at_s, s, 0.0, 0.9) - jump(jump(x_r, r, s, scale), s, 0.0, 0.9)
    torch.testing.assert_close(loss, gap.square().mean(), rtol=1e-6, atol=0)  # copies are kept in fp32
    push = 1 + (0.0 - s) * 0.9 * (mean(at_s + 1e-4, s, 0.0) - mean(at_s - 1e-4, s, 0.0)) / 2e-4  # linear in x
    expected = (2 * gap * push * (s - t) * mean(state.x_t, t, s) / 3).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


class Slanted(PerceptualDistance):
    """Squares, each place with a weight of its own."""

    def forward(self, samples: Tensor, targets: Tensor) -> Tensor:
        return (torch.tensor([1.0, 2.0, 3.0], dtype=samples.dtype) * (samples - targets).square()).sum(1)


def test_ctm_compares_decoded_ends():
    """In the paper by LPIPS; the weights of the places stand for it."""
    settings = {"times": Fixed(3.0, 0.6, 1.5), "transition": ExactStep(), "denoising_weight": 0.0}
    method = made(CTM, EDM(), 1.2, perceptual=Slanted, **settings)
    found = method.student_loss(micro_batch())["consistency"]
    state = method.state(micro_batch())
    gap = (method.estimate(state) - method.bootstrap(state)).detach().square()
    expected = (torch.tensor([1.0, 2.0, 3.0]) * gap).sum(1).mean()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=0, check_dtype=False)


def test_ctm_to_data_needs_no_push():
    """S at the clean end: ``G(x_t, t, 0)`` against ``G(x_r, r, 0)``, the consistency model's loss; r there: x_r."""
    process = EDM()
    settings = {"transition": ExactStep(), "denoising_weight": 0.0, "target": StudentTarget()}
    for r in (0.5, 0.0):
        method = made(CTM, process, 1.2, times=Fixed(3.0, 0.0, r), **settings)
        state = method.state(micro_batch())
        clean = torch.zeros(16, dtype=torch.float64)

        def f(x: Tensor, t: Tensor, clean: Tensor = clean) -> Tensor:
            return x + 1.2 * (exact_map(process, x, t, clean) - x)

        x_r = exact_map(process, state.x_t, state.times.t, state.times.r)
        target = f(x_r, state.times.r) if r else x_r
        expected = (f(state.x_t, state.times.t) - target).square().mean()
        torch.testing.assert_close(loss_and_gradient(method)[0], expected, rtol=1e-10, atol=0)


def test_ctm_denoises_at_the_diagonal():
    """``(1/t^2 + 4) |x - g(x + t n, t, t)|^2``, at noise of its own."""
    method = made(CTM, EDM(), 1.2, times=SubGridTimes(8, 5), transition=ExactStep())
    part = micro_batch()
    found = method.student_loss(part)["denoising"]
    draws = part.draws.scoped("student/denoising")
    t, noise = torch.exp(-1.2 + 1.2 * draws.gauss("time")), draws.normal("noise", (3,), torch.float64)
    x_t = part.x0 + column(t) * noise
    x0 = x_t - 1.2 * column(t) * exact_velocity(EDM(), x_t, t)
    expected = ((column(t) ** -2 + 4) * (x0 - part.x0).square()).mean()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@by_process
def test_the_teacher_walks_the_grid(process: Process):
    """From any grid time to any other by the steps between them; who has arrived stands still."""
    law = SubGridTimes(6, 6)
    method = made(CTM, process, times=law, transition=TeacherWalk(Euler(), 6), coordinates="student")
    state = method.state(micro_batch(32))
    grid = [*process.grid(6), process.t_clean]
    first, middle, last = (
        torch.stack([(time - t).abs().argmin() for time in times])
        for times in (state.times.t, state.times.r, state.times.s)
        for t in [torch.tensor(grid, dtype=torch.float64)]
    )
    assert bool((first < middle).all() and (middle <= last).all()) and len({int(n) for n in middle - first}) == 1
    found = method.transition.step(method.networks, state)
    teacher = method.networks.guided_teacher(state)
    for i in range(0, 32, 5):
        x = state.x_t[i : i + 1]
        for a, b in zip(grid[first[i] : middle[i]], grid[first[i] + 1 : middle[i] + 1], strict=True):
            x = Euler().step(teacher, x, torch.tensor([a]).double(), torch.tensor([b]).double(), {})
        torch.testing.assert_close(found[i : i + 1], x, rtol=1e-6, atol=1e-7)
    apart = MapState(
        JumpTimes(state.times.t, state.times.s, state.times.t.clone()),
        *(getattr(state, field) for field in ("x_t", "x0", "noise", "condition", "dropped", "guidance")),
    )
    apart.times.r[::2] = state.times.r[::2]
    still = method.transition.step(method.networks, apart)
    assert torch.equal(still[1::2], state.x_t[1::2])
    torch.testing.assert_close(still[::2], found[::2], rtol=1e-6, atol=1e-7)


def test_all_samples_of_an_update_have_as_many_steps():
    counts, ends = [], []
    for step in range(300):
        draws = Draws(0, range(8), "test", step=step)
        law = SubGridTimes(18, 17)
        counts.append(law.count(draws))
        times = law.sample(draws, EDM(), 0)
        assert draws.part(2, 3).shared_integer("steps", 17) == draws.shared_integer("steps", 17)
        assert bool((times.t > times.r).all() and (times.r >= times.s).all())
        ends.append((times.s == 0).double().mean())
    assert set(counts) == set(range(1, 18)) and 0.05 < torch.stack(ends).mean() < 0.5
    heavy = [SubGridTimes(18, 17, power=4.0).count(Draws(0, range(8), "test", step=step)) for step in range(300)]
    assert sum(heavy) / 300 > 13 and max(heavy) == 17 and abs(sum(counts) / 300 - 9) < 1


def test_two_losses_pull_equally_hard():
    """The ratio of the gradients of the whole update, however it is cut, and within its bounds."""
    layer, x = nn.Linear(3, 2).double(), torch.randn(8, 3, dtype=torch.float64)
    for pieces in (1, 4):
        balance = GradientBalance()
        balance.begin()
        for rows in x.chunk(pieces):
            y = layer(rows)
            balance.see(y.square().sum(1).mean(), (3.0 * y[:, 0]).mean(), last_layer(layer))
        assert balance.ratio == 1.0, "it acts from the next update on"
        balance.settle(lambda total: total)
        first = torch.autograd.grad(layer(x).square().sum(1).mean(), layer.weight)[0]
        second = torch.autograd.grad(3.0 * layer(x)[:, 0].mean(), layer.weight)[0]
        torch.testing.assert_close(balance.ratio, first.norm() / second.norm(), rtol=1e-10, atol=0)
    bounded = GradientBalance(most=2.0)
    y = layer(x)
    bounded.see(100.0 * y.square().mean(), y[:, 0].mean(), layer.weight)
    bounded.settle(lambda total: total)
    assert bounded.ratio == 2.0
    with torch.no_grad():
        bounded.see(y.mean(), y.mean(), layer.weight)
    bounded.settle(lambda total: total)
    assert bounded.ratio == 2.0, "validation leaves it alone"


def test_the_last_layer_is_the_networks_own():
    method = build(CTM)
    method.configure_model()
    names = {id(p): name for name, p in method.student.named_parameters()}
    assert names[id(last_layer(method.student))].startswith("head")


def test_ctm_takes_over_the_balance_of_the_update_before():
    method, seen = make(CTM), []
    original = method.update

    def update(role: str, parts: Any) -> None:
        seen.append(float(method.balance.ratio))
        original(role, parts)

    method.update = update  # type: ignore[method-assign]
    fit(method, 3)
    assert seen[0] == 1.0 and seen[1] != 1.0 and seen[2] != seen[1] and float(method.balance.ratio) != seen[2]


# ---------------------------------------------------------------------- gamma-sampling


@by_process
def test_gamma_sampling_lies_between_jumps_and_fresh_noise(process: Process):
    """Specification 8.2, 8; in between the noise level is that of the next call: exact map, exact law."""
    times = process.student_grid(3)
    student = ExactMap(process)
    few = Draws(0, range(6), "test")
    for gamma, other in ((0.0, JumpSampler(times)), (1.0, RenoiseSampler(times))):
        found = GammaSampler(times, gamma=gamma).sample(student, few, {}, dtype=torch.float64)
        torch.testing.assert_close(found, other.sample(student, few, {}, dtype=torch.float64), rtol=1e-6, atol=1e-7)
    many = Draws(0, range(40000), "test")
    points = GammaSampler(times, gamma=0.6).sample(student, many, {}, dtype=torch.float64)
    one = GammaSampler(times[:1], gamma=0.6).sample(student, many, {}, dtype=torch.float64)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(points, dim=0), moment(one, dim=0), rtol=0.02, atol=0.02)
    assert (points - one).abs().mean() > 0.05


def test_gamma_is_the_share_of_fresh_noise():
    """On EDM a jump to ``0.8 sigma`` and noise of ``0.6 sigma``."""
    sampler, student = GammaSampler([80.0, 2.0], gamma=0.6), ExactMap(EDM())
    draws = Draws(0, range(4), "test")
    assert sampler.destination(EDM(), 2.0) == pytest.approx(1.6)
    first = student(80.0 * draws.normal("noise", (3,), torch.float64), *(torch.full((4,), v).double() for v in (80.0,)))
    moved = sampler.move(first, torch.full((4,), 2.0, dtype=torch.float64), draws, 1, torch.float64)
    expected = first.x0 + 1.6 * first.noise + 1.2 * draws.normal("noise1", (3,), torch.float64)
    torch.testing.assert_close(moved, expected)


def test_heun_is_the_walks_default():
    assert TeacherWalk().solver == Heun() and TeacherWalk().steps == SubGridTimes().steps == 18
