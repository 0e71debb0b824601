"""rf++, SlimFlow, SFD, SFDDM and KD of decoded pictures: value and gradient in fp64, by hand on Gaussians."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from methods.test_trajectory import COVARIANCE, MEAN, Straight, built, exact_map, piece, teacher
from torch import Tensor, nn
from toys import StopAfter, ToyData, build, trainer

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import PerceptualDistance
from fastgen.methods import KD, RFPP, SFD, SFDDM, SlimFlow
from fastgen.objectives.metrics import AbsoluteError, SquaredError
from fastgen.objectives.progressive import ddim_target
from fastgen.objectives.regression import anneal, annealed_noise, pseudo_huber_of_size
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, VP, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler
from fastgen.sampling.solvers import Euler
from fastgen.times import FlowTime, UShapedTime
from fastgen.times.refined import refined

pytestmark = pytest.mark.filterwarnings("ignore")
FLOW = RectifiedFlow()


class Slope(Denoiser):
    """x0 = a x_t + b, the same at every time."""

    def __init__(self, process: Process, a: float, b: float = 0.0) -> None:
        super().__init__(process, "x0", (3,))
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.a * x_t + self.b


class Slanted(PerceptualDistance):
    """Squares, each place with a weight of its own."""

    def forward(self, samples: Tensor, targets: Tensor) -> Tensor:
        weight = torch.tensor([1.0, 2.0, 3.0], dtype=samples.dtype)
        return (weight * (samples - targets).square()).sum(1)


class Doubling(Codec):
    def decode(self, x0: Tensor) -> Tensor:
        return 2.0 * x0


def z_and_x(count: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 3, generator=g, dtype=torch.float64)
    return z, 0.5 * z + torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)


def given(z: Tensor, x: Tensor, step: int = 0) -> MicroBatch:
    return MicroBatch(x, {}, Draws(5, range(len(z)), "train", step=step), noise=z)


# ---------------------------------------------------------------------- distances of pictures


def test_kd_looks_at_decoded_pictures():
    z, x = z_and_x()
    method = built(KD, student=partial(Slope, EDM(), 0.004), perceptual=Slanted)
    method.codec = Doubling()
    (loss,) = method.student_loss(given(z, x)).values()
    loss.backward()
    gap = (2.0 * (0.004 * 80.0 * z - x)).float()  # pictures are compared in fp32
    weight = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(loss.float(), (weight * gap.square()).sum(1).mean(), rtol=1e-5, atol=1e-6)
    expected = (2.0 * weight * gap * 2.0 * 80.0 * z.float()).sum(1).mean()
    torch.testing.assert_close(method.student.a.grad.float(), expected, rtol=1e-5, atol=1e-6)
    assert not any("look" in name for name in method.state_dict())


# ---------------------------------------------------------------------- rf++


def test_the_pseudo_huber_distance_grows_with_the_number_of_elements():
    gap = torch.tensor([[0.3, -0.4, 1.2]], dtype=torch.float64, requires_grad=True)
    c = 0.1
    value = pseudo_huber_of_size(gap, c)
    root = math.sqrt(0.09 + 0.16 + 1.44 + (3 * c) ** 2)
    assert value.item() == pytest.approx((root - 3 * c) / 3, rel=1e-12)
    (found,) = torch.autograd.grad(value.sum(), gap)
    torch.testing.assert_close(found, gap.detach() / (3 * root), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("perceptual", [None, Slanted])
def test_rfpp_by_hand(perceptual: Any):
    z, x = z_and_x()
    c = 0.2
    method = built(RFPP, student=partial(Slope, FLOW, 0.6, 0.1), c=c, perceptual=perceptual, time=FlowTime())
    part = given(z, x)
    losses = method.student_loss(part)
    t = FlowTime().sample(part.draws.scoped("student"), FLOW)[:, None]
    x_t = (1 - t) * x + t * z
    x0 = 0.6 * x_t + 0.1
    gap = (x_t - x0) / t - (z - x)
    straight = ((gap.square().sum(1) + (3 * c) ** 2).sqrt() - 3 * c) / 3
    if perceptual is None:
        assert losses.keys() == {"straightness"}
        torch.testing.assert_close(losses["straightness"], straight.mean(), rtol=1e-9, atol=1e-12)
        losses["straightness"].backward()
        slope = (gap * (-1.0 / t)).sum(1) / (3 * (gap.square().sum(1) + (3 * c) ** 2).sqrt())
        torch.testing.assert_close(method.student.b.grad, slope.mean(), rtol=1e-9, atol=1e-12)
        return
    torch.testing.assert_close(losses["straightness"], ((1 - t[:, 0]) * straight).mean(), rtol=1e-9, atol=1e-12)
    looks = Slanted()(x0.float(), x.float())
    torch.testing.assert_close(losses["perceptual"].double(), (looks / t[:, 0]).mean(), rtol=1e-5, atol=1e-6)


def test_rfpp_is_zero_where_the_flow_is_straight():
    a, b = exact_map(FLOW)
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method = built(RFPP, student=partial(Straight, a, b))
    (loss,) = method.student_loss(given(z, z @ a.T + b)).values()
    assert loss.item() < 1e-12


def test_u_shaped_times_have_their_density():
    t = UShapedTime(4.0).sample(Draws(0, range(40_000)), FLOW)
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = torch.histogram(t, edges)[0] / len(t)
    mass = lambda u: (math.exp(4 * u) - math.exp(4 * (1 - u))) / (2 * (math.exp(4) - 1))  # noqa: E731
    expected = torch.tensor([mass(float(b)) - mass(float(a)) for a, b in itertools.pairwise(edges)])
    torch.testing.assert_close(found.float(), expected, rtol=0.06, atol=2e-3)
    assert t.min() >= 1e-5 - 1e-12 and t.max() <= 1 - 1e-5 + 1e-12


# ---------------------------------------------------------------------- SlimFlow


def test_annealing():
    values = {kind: [anneal(kind, n, 10) for n in (0, 5, 10, 20)] for kind in ("linear", "cosine", "exponential")}
    assert values["linear"] == [1.0, 0.5, 0.0, 0.0]
    assert values["cosine"] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert values["exponential"] == pytest.approx([1.0, math.exp(-0.5), math.exp(-1.0), math.exp(-2.0)])
    one, other = torch.ones(1), 3.0 * torch.ones(1)
    torch.testing.assert_close(annealed_noise(one, other, 0.6), torch.tensor([0.8 + 1.8]))
    assert torch.equal(annealed_noise(one, other, 0.0), one) and torch.equal(annealed_noise(one, other, 1.0), other)


def slim(**kwargs: Any) -> Any:
    return built(SlimFlow, student=partial(Slope, FLOW, 0.6, 0.1), **({"reflow_updates": 10} | kwargs))


def test_slim_flow_reflows_on_an_annealed_coupling():
    z, x = z_and_x()
    method = slim(anneal_updates=4, reflow_updates=10)
    for update, left in ((0, 1.0), (3, 0.25), (4, 0.0)):
        method.loaded_updates = update
        part = given(z, x)
        fresh = part.draws.scoped("student").normal("fresh", (3,), torch.float64)
        noise = math.sqrt(1 - left**2) * z + left * fresh
        t = FlowTime().sample(part.draws.scoped("student"), FLOW)[:, None]
        x_t = (1 - t) * x + t * noise
        gap = (x_t - (0.6 * x_t + 0.1)) / t - (noise - x)
        expected = 0.5 * gap.square().mean()
        torch.testing.assert_close(method.student_loss(part)["straightness"], expected, rtol=1e-9, atol=1e-12)


def test_slim_flow_is_guided_by_a_path_whose_first_part_is_its_own():
    """v(x, t) = (x - 0.6 x - 0.1) / t: p = 0.4 z - 0.1; then from z - w p the frozen flow of a snapshot."""
    z, x = z_and_x()
    method = slim(metric=SquaredError(scale=0.5), guide_low=0.3, guide_high=0.7)
    method.snapshot.a.data.fill_(0.5)
    method.stage.fill_(1)
    part = given(z, x)
    losses = method.student_loss(part)
    torch.testing.assert_close(losses["regression"], 0.5 * (0.6 * z + 0.1 - x).square().mean(), rtol=1e-9, atol=1e-12)
    draws = part.draws.scoped("guide")
    fresh, w = draws.normal("noise", (3,), torch.float64), (0.3 + 0.4 * draws.uniform("part"))[:, None]
    p = 0.4 * fresh - 0.1
    middle = fresh - w * p
    rest = (middle - 0.5 * middle - 0.1) / (1 - w)
    gap = p - (w * p + (1 - w) * rest)
    torch.testing.assert_close(losses["guide"], 0.5 * gap.square().mean(), rtol=1e-9, atol=1e-12)
    losses["guide"].backward()
    torch.testing.assert_close(method.student.b.grad, -gap.mean(), rtol=1e-9, atol=1e-12)  # the target has no graph
    assert method.snapshot.a.grad is None


def test_a_straight_flow_asks_nothing_more_of_its_one_call():
    a, b = exact_map(FLOW)
    method = built(SlimFlow, student=partial(Straight, a, b), reflow_updates=0)
    method.stage.fill_(1)
    assert method.guided_by_flow(piece()).max() < 1e-20


def test_mirrored_pairs_are_still_pairs():
    method = slim(flip=True, anneal_updates=1)
    method.loaded_updates = 1
    z, x = z_and_x()
    noise, x0 = method.coupling(given(z, x))
    same = (noise == z).all(1)
    assert 0 < same.sum() < len(z)
    assert torch.equal(x0[same], x[same]) and torch.equal(x0[~same], x[~same].flip(-1))
    assert torch.equal(noise[~same], z[~same].flip(-1))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_slim_flow_resumes_across_its_stages(at: int, tmp_path: Path):
    def run(name: str, stop: int | None, start: Path | None = None) -> dict[str, Tensor]:
        method = build(SlimFlow, reflow_updates=2, anneal_updates=2)
        run = trainer(4, *([] if stop is None else [StopAfter(stop)]))
        run.fit(method, ToyData(batch_size=4), ckpt_path=start, weights_only=True)
        run.save_checkpoint(tmp_path / f"{name}.ckpt")
        return {k: v.clone() for k, v in method.state_dict().items()}

    whole = run("whole", None)
    run("half", at)
    resumed = run("resumed", None, tmp_path / "half.ckpt")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


# ---------------------------------------------------------------------- SFD


def test_refined_times_keep_the_ends():
    for process in (EDM(), VP(), RectifiedFlow()):
        times = [process.t_max, 0.4 * process.t_max, process.t_clean]
        found = refined(process, times, 3)
        assert found[::3] == times and len(found) == 7
        assert all(a > b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=["edm", "vp", "flow"])
def test_sfd_steps_from_its_own_states(process: Process):
    """Turn by turn with a student that moves in between: a state is what the student of its turn made of the last."""
    times = [process.t_max, 0.5 * process.t_max, 0.2 * process.t_max]
    method = built(
        SFD,
        teacher=teacher(process),
        student=partial(Slope, process, 0.3, 0.1),
        sampler=JumpSampler(times),
        solver=Euler(),
        metric=AbsoluteError(),
    )
    assert method.turns(0) == ("student",) * 3
    part = piece(16)
    exact = GaussianDenoiser(process, MEAN, COVARIANCE)
    x = y = process.start(part.draws.normal("noise", (3,), torch.float64), torch.full((16,), times[0]).double())
    fine = refined(process, [*times, process.t_clean], 4)
    for i, end in enumerate([*times[1:], process.t_clean]):
        part.begin_turn("student")
        (loss,) = method.student_loss(part).values()
        for k in range(4):
            t, s = (torch.full((16,), v, dtype=torch.float64) for v in fine[4 * i + k : 4 * i + k + 2])
            y = process.jump(exact(y, t), s)
        t, s = (torch.full((16,), v, dtype=torch.float64) for v in (times[i], end))
        x = process.jump(method.student(x, t), s).detach()
        torch.testing.assert_close(loss.item(), (x - y).abs().mean().item(), rtol=1e-9, atol=1e-12)
        method.student.a.grad = None
        loss.backward()
        assert method.student.a.grad.abs() > 0
        part.end_turn("student")
        method.student.a.data += 0.01


def test_sfd_of_a_teacher_of_one_point_is_learned():
    """Every Euler step of the exact student ends where the teacher does."""
    process = EDM()
    point = partial(Slope, process, 0.0, 0.3)
    method = built(SFD, teacher=point, student=point, sampler=JumpSampler(steps=3))
    (loss,) = method.student_loss(piece(8)).values()
    assert loss.item() < 1e-9


def test_sfd_looks_at_its_last_step_alone():
    process = EDM()
    sampler = JumpSampler([80.0, 1.0])
    networks = {"teacher": teacher(process), "student": partial(Slope, process, 0.3, 0.1)}
    plain, looking = (built(SFD, **networks, sampler=sampler, perceptual=p) for p in (None, Slanted))
    gaps = []
    parts = piece(8), piece(8)
    for _ in range(2):
        for part in parts:
            part.begin_turn("student")
        gaps.append(looking.student_loss(parts[1])["trajectory"] - plain.student_loss(parts[0])["trajectory"])
    expected = Slanted()(parts[0].states[2].float(), parts[0].targets[1].float()).mean()
    assert gaps[0].item() == 0.0
    torch.testing.assert_close(gaps[1].float(), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- SFDDM


def sfddm(process: Process, substeps: int, student: Any, **kwargs: Any) -> Any:
    return built(
        SFDDM,
        teacher=teacher(process),
        student=student,
        sampler=JumpSampler(steps=4),
        substeps=substeps,
        weight=UniformWeight(),
        **kwargs,
    )


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=["edm", "vp", "flow"])
def test_sfddm_of_one_substep_is_the_teacher(process: Process):
    method = sfddm(process, 1, teacher(process))
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = method.student_loss(MicroBatch(x, {}, Draws(0, range(16))))
    assert max(float(v) for v in losses.values()) < 1e-14


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=["edm", "vp", "flow"])
def test_sfddm_of_two_substeps_is_progressive_distillation(process: Process):
    method = sfddm(process, 2, partial(Slope, process, 0.3, 0.1), hidden=0.7)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = MicroBatch(x, {}, Draws(0, range(16)))
    losses = method.student_loss(part)
    sum(losses.values()).backward()
    times = [*JumpSampler(steps=4).schedule(method.student), process.t_clean]
    fine = torch.tensor(refined(process, times, 2), dtype=torch.float64)
    draws = part.draws.scoped("student")
    step = draws.integers("step", 4)
    t, r, s = fine[2 * step], fine[2 * step + 1], fine[2 * step + 2]
    x_t = process.add_noise(x, draws.normal("noise", (3,), torch.float64), t)
    exact = GaussianDenoiser(process, MEAN, COVARIANCE)
    x_r = process.jump(exact(x_t, t), r)
    x_s = process.jump(exact(x_r, r), s)
    target = ddim_target(process, x_t, t, x_s, s)
    gap = 0.3 * x_t + 0.1 - target
    torch.testing.assert_close(losses["output"], gap.square().mean(), rtol=1e-9, atol=1e-12)
    reached = process.jump(method.student(x_t, t), s)
    torch.testing.assert_close(losses["hidden"], 0.7 * (reached - x_s).square().mean(), rtol=1e-7, atol=1e-12)
    weight = (process.alpha(s) - process.sigma(s) / process.sigma(t) * process.alpha(t))[:, None].square()
    expected = (2.0 * (1.0 + 0.7 * weight) * gap).mean()
    torch.testing.assert_close(method.student.b.grad, expected, rtol=1e-9, atol=1e-12)


def test_sfddm_needs_samples():
    with pytest.raises(UserError, match="'x0' is missing"):
        sfddm(EDM(), 2, teacher(EDM())).student_loss(piece())
