"""KD, Reflow and Progressive on Gaussians, in fp64, against the exact flow map."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn
from toys import StopAfter, ToyData, build, trainer

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import KD, Distiller, Progressive, Reflow
from fastgen.objectives.progressive import ddim_target
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler, RenoiseSampler
from fastgen.sampling.solvers import Euler, Heun

MEAN = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.9, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP(), "flow": RectifiedFlow(), "trig": TrigFlow(1.0)}
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
pytestmark = pytest.mark.filterwarnings("ignore")


class Linear(Denoiser):
    """x0 = A z + b with z the standard normal noise behind the sampler's first input."""

    def __init__(self, process: Process, a: Tensor, b: Tensor) -> None:
        super().__init__(process, "x0", (len(b),))
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return (x_t / self.process.start(torch.ones_like(x_t), t)) @ self.a.T + self.b


class Straight(Denoiser):
    """The exact denoiser of the coupling (z, A z + b) of rectified flow: x_t determines z, so lines are straight."""

    def __init__(self, a: Tensor, b: Tensor, bend: float = 0.0) -> None:
        super().__init__(RectifiedFlow(), "velocity", (len(b),))
        self.a, self.b, self.bend = a, b, nn.Parameter(torch.tensor(bend, dtype=torch.float64))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        eye = torch.eye(len(self.b), dtype=torch.float64)
        mixing = (1 - t)[:, None, None] * self.a + t[:, None, None] * eye
        z = torch.linalg.solve(mixing, (x_t - (1 - t)[:, None] * self.b)[:, :, None])[:, :, 0]
        return z - (z @ self.a.T + self.b) + self.bend


def teacher(process: Process) -> Any:
    return partial(GaussianDenoiser, process, MEAN, COVARIANCE)


def built(cls: type[Distiller], **kwargs: Any) -> Any:
    method = cls(**kwargs)
    method.configure_model()
    return method


def piece(count: int = 64, **kwargs: Any) -> MicroBatch:
    return MicroBatch(None, {}, Draws(5, range(count), "train"), **kwargs)


def exact_map(process: Process) -> tuple[Tensor, Tensor]:
    """A and b of the solver's limit: standard normal noise to data along the exact flow."""
    t = torch.full((3,), process.t_max, dtype=torch.float64)
    alpha, sigma = (float(c[0]) for c in process.coefficients(t))
    b = oracles.flow_map(MEAN, COVARIANCE, torch.zeros(1, 3, dtype=torch.float64), alpha, sigma)[0]
    starts = process.start(torch.eye(3, dtype=torch.float64), t)
    return (oracles.flow_map(MEAN, COVARIANCE, starts, alpha, sigma) - b).T, b


def test_the_map_of_rectified_flow_is_mean_plus_root_of_the_covariance():
    a, b = exact_map(RectifiedFlow())
    torch.testing.assert_close(a, oracles.root(COVARIANCE), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(b, MEAN)


@by_process
def test_kd_has_its_optimum_at_the_exact_flow_map(process: Process):
    """Value and gradient of half the mean squared error against pairs of the exact map."""
    a, b = exact_map(process)
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = z @ a.T + b
    method = built(KD, student=partial(Linear, process, a, b))
    (loss,) = method.student_loss(MicroBatch(x, {}, Draws(0, range(64)), noise=z)).values()
    assert loss.item() < 1e-20
    moved_a, moved_b = a + 0.3, b - torch.tensor([0.1, 0.0, 0.4], dtype=torch.float64)
    method = built(KD, student=partial(Linear, process, moved_a, moved_b))
    (loss,) = method.student_loss(MicroBatch(x, {}, Draws(0, range(64)), noise=z)).values()
    loss.backward()
    gap = z @ moved_a.T + moved_b - x
    assert abs(loss.item() - 0.5 * gap.square().mean().item()) < 1e-12
    expected = oracles.generator_gradient(gap / gap.numel(), z)
    torch.testing.assert_close(method.student.a.grad, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(method.student.b.grad, expected[1], rtol=1e-9, atol=1e-12)


@by_process
def test_pairs_made_in_the_step_lie_on_the_exact_map(process: Process):
    a, b = exact_map(process)
    errors = []
    for steps in (32, 64):
        method = built(KD, teacher=teacher(process), student=partial(Linear, process, a, b), solver=Heun(steps))
        z, x = method.pair(piece())
        errors.append((z @ a.T + b - x).abs().max().item())
    assert errors[1] < 2e-2 and errors[1] < 0.6 * errors[0], errors


def test_kd_without_pairs_and_teacher_says_so():
    a, b = exact_map(EDM())
    with pytest.raises(UserError, match="Pairs"):
        built(KD, student=partial(Linear, EDM(), a, b)).student_loss(piece())


def test_kd_of_several_calls_regresses_every_call_of_the_deterministic_chain():
    """With the exact student of a Gaussian, DDIM is not exact, so the loss of call k is that of the chain by hand."""
    process, times = EDM(), [80.0, 4.0, 0.7]
    method = built(
        KD,
        teacher=teacher(process),
        student=partial(GaussianDenoiserWithParameter, process),
        sampler=JumpSampler(times),
    )
    z = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b = exact_map(process)
    expected, x_t = [], 80.0 * z
    for i, time in enumerate(times):
        t = torch.full((16,), time, dtype=torch.float64)
        prediction = method.student(x_t, t)
        expected.append(0.5 * (prediction.x0 - (z @ a.T + b)).square().mean().item())
        if i < 2:
            x_t = process.jump(prediction, torch.full_like(t, times[i + 1]))
    seen = set()
    for step in range(12):
        part = MicroBatch(z @ a.T + b, {}, Draws(0, range(16), step=step), noise=z)
        loss = method.student_loss(part)["regression"].item()
        at = part.rollouts["student"].step
        seen.add(at)
        assert abs(loss - expected[at]) < 1e-12
    assert seen == {0, 1, 2} and expected[2] < expected[0]


class GaussianDenoiserWithParameter(Denoiser):
    """The exact denoiser with something to train: a shift of its answer."""

    def __init__(self, process: Process, shift: float = 0.0) -> None:
        super().__init__(process, "x0", (3,))
        self.law = GaussianDenoiser(process, MEAN, COVARIANCE)
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.law.predict(x_t, t, condition) + self.shift


# ---------------------------------------------------------------------- reflow


def test_reflow_is_done_when_the_lines_are_straight():
    a, b = exact_map(RectifiedFlow())
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = MicroBatch(z @ a.T + b, {}, Draws(0, range(64)), noise=z)
    method = built(Reflow, student=partial(Straight, a, b))
    assert method.student_loss(part)["straightness"].item() < 1e-20
    one, ten = (method.sampler.sample(method.student, Draws(0, range(8)), {}, n, torch.float64) for n in (1, 10))
    torch.testing.assert_close(one, ten, rtol=1e-9, atol=1e-9)
    noise = Draws(0, range(8)).normal("noise", (3,), torch.float64)
    torch.testing.assert_close(one, noise @ a.T + b, rtol=1e-9, atol=1e-9)
    bent = built(Reflow, student=partial(Straight, a, b, 0.2))
    loss = bent.student_loss(part)["straightness"]
    loss.backward()
    assert abs(loss.item() - 0.5 * 0.2**2) < 1e-12 and abs(bent.student.bend.grad.item() - 0.2) < 1e-12


def test_the_independent_coupling_is_not_straight():
    """The flow that the teacher follows leaves a loss on its own pairs: E|E[v | x_t] - (z - x)|^2 > 0."""
    a, b = exact_map(RectifiedFlow())
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = MicroBatch(z @ a.T + b, {}, Draws(0, range(64)), noise=z)
    method = built(Reflow, student=partial(GaussianDenoiserWithParameter, RectifiedFlow()))
    assert method.student_loss(part)["straightness"].item() > 1e-3


# ---------------------------------------------------------------------- progressive


@by_process
def test_progressive_regresses_the_target_of_two_teacher_steps(process: Process):
    method = built(
        Progressive,
        teacher=teacher(process),
        student=partial(GaussianDenoiserWithParameter, process, 0.1),
        steps=[4, 2],
        weight=UniformWeight(),
        solver=Euler(),
    )
    x0 = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked: list[tuple[Tensor, Tensor]] = []
    method.student.register_forward_pre_hook(lambda _, args: asked.append(args[:2]))
    (loss,) = method.student_loss(MicroBatch(x0, {}, Draws(0, range(64), "train"))).values()
    loss.backward()
    ((x_t, t),) = asked
    fine = [*process.grid(8), process.t_clean]
    index = torch.tensor([fine.index(float(time)) for time in t])
    assert set((index % 2).tolist()) == {0} and set(index.tolist()) == {0, 2, 4, 6}
    grid = torch.tensor(fine, dtype=torch.float64)
    x, s = x_t, grid[index + 2]
    for start, end in ((t, grid[index + 1]), (grid[index + 1], s)):  # DDIM by hand
        (alpha, sigma), (alpha_s, sigma_s) = process.coefficients(start), process.coefficients(end)
        clean = oracles.gaussian_x0(MEAN, COVARIANCE, x, alpha, sigma)
        noise = (x - alpha[:, None] * clean) / sigma[:, None]
        x = alpha_s[:, None] * clean + sigma_s[:, None] * noise
    target = ddim_target(process, x_t, t, x, s)
    student = oracles.gaussian_x0(MEAN, COVARIANCE, x_t, *process.coefficients(t)) + 0.1
    torch.testing.assert_close(loss.item(), (student - target).square().mean().item(), rtol=1e-9, atol=0)
    torch.testing.assert_close(method.student.shift.grad, 2 * (student - target).mean(), rtol=1e-8, atol=1e-12)


def test_stages_lie_on_one_grid_and_sampling_follows_them():
    method = built(Progressive, teacher=teacher(EDM()), student=partial(GaussianDenoiserWithParameter, EDM()))
    fine = EDM().grid(8)
    for stage, stride in enumerate((2, 4, 8)):
        method.enter(stage)
        assert method.sampler == JumpSampler(fine[::stride]) and method.evaluations("student") == 8 // stride
    state = {name: value.clone() for name, value in method.state_dict().items()}
    method.enter(0)
    method.load_state_dict(state)
    assert method.sampler == JumpSampler(fine[::8]) and int(method.stage) == 2, "a loaded stage is entered"


def test_a_later_stage_has_the_student_before_it_as_teacher():
    method = progressive()
    method.configure_model()
    method.enter(1)
    part = MicroBatch(torch.ones(4, 2), {"label": torch.zeros(4, dtype=torch.int64)}, Draws(0, range(4), "train"))
    times = [torch.full((4,), time, dtype=torch.float64) for time in method.times(4)[:3]]
    reached = [method.two_steps(part.x0, *times, part)]
    for network in (method.teacher, method.student, method.snapshot):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1)
        reached.append(method.two_steps(part.x0, *times, part))
    assert [torch.equal(reached[0], one) for one in reached] == [True, True, True, False]


def test_nothing_follows_the_last_stage():
    method, begun = progressive(), []
    method.configure_model()
    method.enter(2)
    method.begin_stage = begun.append  # type: ignore[method-assign]
    trainer(10).fit(method, ToyData(batch_size=4))  # beyond the end of the last stage, which is 9
    assert begun == []


def progressive(**kwargs: Any) -> Progressive:
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    stages = {"steps": [4, 2, 1], "stage_updates": [3, 2, 4]}
    return build(Progressive, student_optimizer=optimizer, student_lr_scheduler=schedule, **stages, **kwargs)


def test_a_stage_begins_with_a_fresh_optimizer_and_the_last_student_as_teacher():
    method, seen, ends = progressive(), [], []
    original = method.update

    def update(role: str, parts: Any) -> None:
        optimizer = method.optimizer_of("student")
        stage = int(method.stage)
        state = [int(s["step"]) for s in optimizer.state.values()]
        seen.append((stage, state[0] if state else 0, round(optimizer.param_groups[0]["lr"] * 1e3, 9)))
        if not state and stage:
            for kept, old in zip(method.snapshot.parameters(), ends[-1], strict=True):
                assert torch.equal(kept, old)
            assert method.evaluations("student") == [4, 2, 1][stage]
        original(role, parts)
        ends.append([p.detach().clone() for p in method.student.parameters()])

    method.update = update  # type: ignore[method-assign]
    trainer(9).fit(method, ToyData(batch_size=4))
    rates = [1.0, 1.0, 0.1]
    assert seen == [(s, i, rates[i % 3] if i < 3 else 0.1) for s, n in enumerate((3, 2, 4)) for i in range(n)]


@pytest.mark.parametrize("at", [2, 3, 4, 5], ids=lambda at: f"after-{at}")
def test_progressive_resumes_bit_identically_anywhere_around_a_stage(at: int, tmp_path: Path):
    path = str(tmp_path / "half.ckpt")
    ends = []
    for ckpt_path in (None, path):
        method = progressive()
        method.request_average("ema")
        run = trainer(7, StopAfter(7, at, path if ckpt_path is None else None))
        run.fit(method, ToyData(batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        sample = method.sample([1, 2], {"label": torch.tensor([0, 1])})
        ends.append((dict(method.state_dict()), run.optimizers[0].state_dict(), sample, int(method.stage)))
    assert ends[0][3] == ends[1][3] == 2
    for name, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][name]), name
    assert torch.equal(ends[0][2], ends[1][2])
    for key, state in ends[0][1]["state"].items():
        assert all(torch.equal(value, ends[1][1]["state"][key][name]) for name, value in state.items())
    assert ends[0][1]["param_groups"] == ends[1][1]["param_groups"]


@pytest.mark.parametrize(
    "wrong", [{"steps": [4, 3]}, {"steps": []}, {"stage_updates": [1, 2]}, {"sampler": RenoiseSampler([80.0])}]
)
def test_wrong_stages_are_refused(wrong: dict[str, Any]):
    with pytest.raises(UserError, match=r"steps|stage_updates|sampler"):
        build(Progressive, **wrong)
