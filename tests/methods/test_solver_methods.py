"""D-ODE and Bespoke solvers, and samplers that ask the teacher; closed forms and sums by hand, fp64."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from methods.test_regressions import Slope
from methods.test_trajectory import COVARIANCE, MEAN, built, piece, teacher
from torch import Tensor
from toys import FreeData, build
from toys import trainer as quiet

from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.denoisers.wrappers.borrowed import WithNumbers, WithTeacher
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.errors import UserError
from fastgen.methods import DODE, KD, Bespoke, OptimalSteps
from fastgen.processes import EDM, VP, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.corrections import least_squares, quotient
from fastgen.sampling.runge_kutta import rk1_lipschitz, rk1_step, rk2_lipschitz, rk2_step
from fastgen.sampling.samplers import (
    BaseFirst,
    BespokeSampler,
    CorrectedSampler,
    DistillationPlusPlus,
    GridSampler,
    JumpSampler,
    RenoiseSampler,
)
from fastgen.sampling.solvers import Euler

pytestmark = pytest.mark.filterwarnings("ignore")
FLOW = RectifiedFlow()


def on_the_flow(noise: Tensor, t: float) -> Tensor:
    """Where rectified flow of the Gaussian is that began at ``noise``."""
    return (1 - t) * MEAN + noise @ oracles.root((1 - t) ** 2 * COVARIANCE + t**2 * torch.eye(3).double())


class Alone:
    """What ``reduce`` is without other processes."""

    class strategy:
        @staticmethod
        def reduce(value: Tensor, reduce_op: str) -> Tensor:
            return value


# ---------------------------------------------------------------------- D-ODE


def test_the_scalar_is_that_of_least_squares():
    g = torch.Generator().manual_seed(0)
    x, d, target = (torch.randn(5, 3, generator=g, dtype=torch.float64) for _ in range(3))
    found = quotient(*least_squares(x, d, target))
    expected = torch.linalg.lstsq(d.reshape(-1, 1), (target - x).reshape(-1, 1)).solution.item()
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert quotient(*least_squares(x, 0.0 * d, target)).item() == 0.0  # a constant network has nothing to correct with


def d_ode(process: Process, form: Any, scale: int = 8, steps: int = 4) -> Any:
    method = built(DODE, teacher=teacher(process), sampler=CorrectedSampler(steps, form), scale=scale)
    method._trainer = None
    return method


def fitted(method: Any, part: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(type(method), "trainer", Alone())
    return method.fit([part])


@pytest.mark.parametrize(("process", "form"), [(EDM(), "data"), (VP(), "noise"), (FLOW, "data")], ids=str)
def test_scalars_by_hand(process: Process, form: Any, monkeypatch: pytest.MonkeyPatch):
    """Step by step: each scalar with the states that the earlier ones corrected, against the fine trajectory."""
    method, part = d_ode(process, form), piece(32)
    exact = GaussianDenoiser(process, MEAN, COVARIANCE)
    scalars = fitted(method, part, monkeypatch)
    noise, times, targets = method.targets(part)
    x, before = process.start(noise, times[0]), None
    plain = x
    for i, (t, s) in enumerate(pairwise(times)):
        said = exact(x, t)
        moved = process.jump(said, s)
        plain = process.jump(exact(plain, t), s)
        if form == "data":
            d = None if before is None else said.x0 - before.x0
        else:
            d = said.noise - (noise if before is None else before.noise)
        if d is None:
            assert scalars[i] == 0.0
            x = moved
        else:
            expected = (d * (targets[i] - moved)).sum() / d.square().sum()
            assert scalars[i].item() == pytest.approx(expected.item(), rel=1e-3)  # noise is fp32
            x = moved + expected * d
        before = said
    assert (x - targets[-1]).square().mean() < 0.5 * (plain - targets[-1]).square().mean()


def test_a_teacher_of_as_many_steps_needs_no_correction(monkeypatch: pytest.MonkeyPatch):
    scalars = fitted(d_ode(EDM(), "data", scale=1), piece(16), monkeypatch)
    assert scalars.abs().max() < 1e-9


def test_d_ode_samples_with_its_scalars():
    method = build(DODE, student=CopyOfTeacher(), scale=4, sampler=CorrectedSampler(3))
    quiet(3).fit(method, FreeData(batch_size=8))
    torch.testing.assert_close(method.student.numbers["scalars"][1:], (method.sums[:, 0] / method.sums[:, 1])[1:])
    assert method.student.numbers["scalars"].dtype == torch.float64
    before = method.student.numbers["scalars"].detach().clone()
    assert before[0] == 0.0 and before[1:].abs().min() > 0.0
    label = {"label": torch.zeros(4, dtype=torch.int64)}
    own = method.sample(range(4), label)
    with torch.no_grad():
        method.student.numbers["scalars"].zero_()
    assert not torch.allclose(own, method.sample(range(4), label))
    assert method.evaluations("student") == 3
    with pytest.raises(UserError, match="trains no network"):
        DODE(teacher=teacher(EDM()), student=partial(Slope, EDM(), 1.0))
    with pytest.raises(UserError, match="has none; train it by DODE"):
        CorrectedSampler(3).sample(method.teacher, Draws(0, range(2)), {})


# ---------------------------------------------------------------------- bespoke


def linear(x: Tensor, t: Tensor) -> Tensor:
    """A field whose flow is known: dx/dt = (2 + t) x."""
    return (2.0 + t) * x


def end_error(order: int, steps: int, warp: bool) -> float:
    """From t = 1 to 0 along t(r) = 1 - r^2 / 2 - r / 2, s(r) = exp(r / 3), or plainly."""
    x, h = torch.ones(1, 1, dtype=torch.float64), 1.0 / steps

    def node(r: float) -> tuple[Tensor, ...]:
        values = (
            (1 - 0.5 * r**2 - 0.5 * r, -r - 0.5, math.exp(r / 3), math.exp(r / 3) / 3) if warp else (1 - r, -1, 1, 0)
        )
        return tuple(torch.tensor(float(v), dtype=torch.float64) for v in values)

    for i in range(steps):
        here, end = node(i * h), node((i + 1) * h)[2]
        middle = node((i + 0.5) * h)
        x = rk1_step(x, linear, here, end, h) if order == 1 else rk2_step(x, linear, here, middle, end, h)
    return abs(x.item() - math.exp(-2.5))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("warp", [False, True])
def test_orders_of_bespoke_steps(order: int, warp: bool):
    errors = [end_error(order, steps, warp) for steps in (32, 64, 128)]
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(m - order) < 0.15 for m in measured), measured


def test_the_bounds_by_hand():
    t, dt, s, ds, end = (torch.tensor(v, dtype=torch.float64) for v in (0.5, -2.0, 1.5, 0.4, 1.2))
    assert rk1_lipschitz((t, dt, s, ds), end, 0.25, 3.0).item() == pytest.approx((1.6 + 0.25 * 2 * 1.5 * 3) / 1.2)
    middle = (t, torch.tensor(-1.0).double(), torch.tensor(2.0).double(), torch.tensor(-0.6).double())
    first, second = 0.4 / 1.5 + 2 * 3, 0.6 / 2 + 3
    expected = 1.5 / 1.2 * (1 + 0.25 * second * (1 + 0.125 * first))
    assert rk2_lipschitz((t, dt, s, ds), middle, end, 0.25, 3.0).item() == pytest.approx(expected)


def bespoke(process: Process, order: Any, steps: int = 3, **kwargs: Any) -> Any:
    return built(Bespoke, teacher=teacher(process), sampler=BespokeSampler(steps, order), dense=64, **kwargs)


def test_the_initial_numbers_are_the_plain_solver():
    """T = r and s = 1: Euler on rectified flow, and the midpoint rule."""
    for order in (1, 2):
        method = bespoke(FLOW, order)
        draws, exact = Draws(1, range(8)), GaussianDenoiser(FLOW, MEAN, COVARIANCE)
        found = method.sampler.sample(method.student, draws, {}, dtype=torch.float64)
        x = draws.normal("noise", (3,), torch.float64)
        if order == 1:
            expected = Euler(3).solve(exact, x, {})
        else:
            for i in range(3):
                t = torch.full((8,), 1 - i / 3, dtype=torch.float64)
                middle = x - exact(x, t).velocity / 6
                x = x - exact(middle, t - 1 / 6).velocity / 3
            expected = x
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        assert method.evaluations("student") == 3 * order


def test_the_loss_is_the_weighted_error_of_single_steps():
    method, part = bespoke(FLOW, 1), piece(16)
    (loss,) = method.student_loss(part).values()
    noise = part.draws.normal("noise", (3,), torch.float32).double()
    exact = GaussianDenoiser(FLOW, MEAN, COVARIANCE)
    steps = []
    for i in range(3):
        t, s = 1 - i / 3, 1 - (i + 1) / 3
        x, y = (on_the_flow(noise, time) for time in (t, s))
        reached = x - exact(x, torch.full((16,), t, dtype=torch.float64)).velocity / 3
        steps.append((reached - y).square().mean(1).sqrt().mean().item())
    bound = 1 + 1 / 3
    expected = bound**2 * steps[0] + bound * steps[1] + steps[2]
    assert loss.item() == pytest.approx(expected, rel=2e-3)  # the truth is that of a dense solver


def test_learning_comes_nearer_to_the_truth():
    method = bespoke(FLOW, 1, steps=4)
    optimizer = torch.optim.Adam(method.student.parameters(), lr=2e-2)
    losses, errors = [], []
    for step in range(60):
        part = piece(64)
        with torch.no_grad():
            found = method.sampler.sample(method.student, Draws(3, range(200)), {}, dtype=torch.float64)
            noise = Draws(3, range(200)).normal("noise", (3,), torch.float64)
            errors.append((found - on_the_flow(noise, 0.0)).square().mean().item())
        (loss,) = method.student_loss(part).values()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(p.grad is not None and p.grad.isfinite().all() for p in method.student.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and errors[-1] < 0.6 * errors[0], (losses[::20], errors[::20])


def test_a_bespoke_solver_has_its_own_steps():
    method = bespoke(EDM(), 2)
    times = method.sampler.schedule(method.student)
    assert len(times) == 6 and all(a > b for a, b in pairwise(times)) and times[0] == pytest.approx(80.0)
    with torch.no_grad():
        for value in method.student.numbers.values():
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    own, other = (method.sampler.sample(method.student, Draws(0, range(2)), {}, steps=n) for n in (None, 4))
    plain = bespoke(EDM(), 2, steps=4)
    torch.testing.assert_close(other, plain.sampler.sample(plain.student, Draws(0, range(2)), {}))
    assert not torch.allclose(own, other) and method.evaluations("student", 4) == 8
    with pytest.raises(UserError, match="train it by Bespoke"):
        BespokeSampler(3).schedule(method.teacher)
    half = method.student.to(torch.bfloat16)
    assert isinstance(half, WithNumbers) and half.numbers["scales"].dtype == torch.float64


# ---------------------------------------------------------------------- optimal steps


@pytest.mark.parametrize("process", [EDM(), VP(), FLOW], ids=["edm", "vp", "flow"])
def test_a_free_start_finds_the_best_time_of_a_single_call(process: Process):
    """Against every time there is: pure noise of its level, and one step to data."""
    method = built(
        OptimalSteps, teacher=teacher(process), sampler=GridSampler(1), fine_steps=10, free_start=True
    )  # fmt: skip
    part, exact = piece(64), GaussianDenoiser(process, MEAN, COVARIANCE)
    times, states = method.trajectory(part)
    noise, errors = method.noise_of(part), []
    for time in times[:-1]:
        t = noise.new_full((64,), time, dtype=torch.float64)
        x0 = process.jump(exact(process.start(noise, t), t), torch.full_like(t, times[-1]))
        errors.append((x0 - states[-1]).square().mean(1))
    winner = torch.stack(errors).argmin(0)
    assert torch.equal(method.search(part)[0], torch.nn.functional.one_hot(winner, 10).sum(0))
    assert winner.max() > 0
    bound = built(OptimalSteps, teacher=teacher(process), sampler=GridSampler(2), fine_steps=10)
    assert bound.search(part)[0, 0] == 64


# ---------------------------------------------------------------------- samplers that ask the teacher


def pair_of(process: Process) -> WithTeacher:
    return WithTeacher(Slope(process, 0.3, 0.1), GaussianDenoiser(process, MEAN, COVARIANCE))


def test_the_base_model_makes_the_first_call():
    process, draws = EDM(), Draws(0, range(6))
    both = pair_of(process)
    sampler = BaseFirst(RenoiseSampler([80.0, 2.0]))
    found = sampler.sample(both, draws, {}, dtype=torch.float64)
    t = torch.full((6,), 80.0, dtype=torch.float64)
    first = both.teacher(80.0 * draws.normal("noise", (3,), torch.float64), t).x0
    x = first + 2.0 * draws.normal("noise1", (3,), torch.float64)
    torch.testing.assert_close(found, 0.3 * x + 0.1)
    plain = RenoiseSampler([80.0, 2.0]).sample(both.student, draws, {}, dtype=torch.float64)
    torch.testing.assert_close(
        BaseFirst(RenoiseSampler([80.0, 2.0]), base_calls=0).sample(both, draws, {}, dtype=torch.float64), plain
    )
    assert sampler.evaluations() == 2


def test_distillation_plus_plus_by_hand():
    process, draws = EDM(), Draws(0, range(6))
    both = pair_of(process)
    sampler = DistillationPlusPlus(JumpSampler([80.0, 2.0]), share=0.25, back=0.1)
    found = sampler.sample(both, draws, {}, dtype=torch.float64)
    x_t = 80.0 * draws.normal("noise", (3,), torch.float64)
    own = 0.3 * x_t + 0.1
    level = process.position(torch.tensor([0.9], dtype=torch.float64)).expand(6)
    noised = own + level[:, None] * draws.normal("again0", (3,), torch.float64)
    x0 = 0.75 * own + 0.25 * both.teacher(noised, level).x0
    x_s = x0 + 2.0 * (x_t - x0) / 80.0
    torch.testing.assert_close(found, 0.3 * x_s + 0.1, rtol=1e-9, atol=1e-9)
    assert sampler.evaluations() == 3 and sampler.evaluations(1) == 2
    nothing = DistillationPlusPlus(JumpSampler([80.0, 2.0]), share=0.0).sample(both, draws, {}, dtype=torch.float64)
    torch.testing.assert_close(nothing, JumpSampler([80.0, 2.0]).sample(both.student, draws, {}, dtype=torch.float64))


def test_a_method_samples_with_its_teacher_and_trains_alone():
    method = build(KD, sampler=BaseFirst(RenoiseSampler([80.0, 2.0])))
    quiet(1).fit(method, FreeData(batch_size=4))
    label = {"label": torch.zeros(4, dtype=torch.int64)}
    assisted = method.sample(range(4), label)
    method.sampler = RenoiseSampler([80.0, 2.0])
    assert not torch.allclose(assisted, method.sample(range(4), label))
    method.sampler, method.teacher = BaseFirst(RenoiseSampler([80.0, 2.0])), None
    with pytest.raises(UserError, match="asks the teacher beside the student"):
        method.sample(range(4), label)
