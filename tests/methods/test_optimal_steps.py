"""The search against every grid there is, and the method through the command line."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from command_line import checkpoint, fastgen, last, trainer, write
from denoisers.tiny_sd3 import write_tiny_sd3
from toys import FreeData, ToyData, build
from toys import trainer as quiet

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.denoisers import StableDiffusion3
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.export.sampling import network_of, sampling_of
from fastgen.methods import OptimalSteps
from fastgen.processes import EDM, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.optimal_steps import lower_median, optimal_steps
from fastgen.sampling.samplers import GridSampler
from fastgen.sampling.solvers import Euler

MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.9, 0.3], [0.3, 0.2]], dtype=torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore")


class Paths:
    """Euler steps on a Gaussian in fp64."""

    def __init__(self, process: Process, fine: int, count: int = 16) -> None:
        self.process, self.denoiser = process, GaussianDenoiser(process, MEAN, COVARIANCE)
        self.times = [*process.solver_grid(fine), process.t_clean]
        self.calls = 0
        noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.states = [process.start(noise, self.at(0, count))]
        for i in range(fine):
            self.states.append(self.move(self.predict(self.states[-1], i), i + 1))
        self.calls = 0

    def at(self, i: int, count: int) -> torch.Tensor:
        return torch.full((count,), self.times[i], dtype=torch.float64)

    def predict(self, x: torch.Tensor, i: int):
        self.calls += 1
        return self.denoiser(x, self.at(i, len(x)))

    def move(self, prediction, j: int) -> torch.Tensor:
        return self.process.jump(prediction, self.at(j, len(prediction.x_t)))

    def walk(self, calls: tuple[int, ...]) -> torch.Tensor:
        x = self.states[0]
        for i, j in zip(calls, [*calls[1:], len(self.states) - 1], strict=True):
            x = self.move(self.predict(x, i), j)
        return x

    def error(self, calls: tuple[int, ...]) -> torch.Tensor:
        return (self.walk(calls) - self.states[-1]).square().mean(1)


@pytest.mark.parametrize("process", [EDM(), RectifiedFlow()], ids=["edm", "flow"])
def test_two_steps_are_the_best_of_all_grids(process: Process):
    paths = Paths(process, 12)
    calls, error = optimal_steps(paths.states, paths.predict, paths.move, 2)
    assert paths.calls == 1 + 11
    every = [(0, i) for i in range(1, 12)]
    errors = torch.stack([paths.error(grid) for grid in every])
    torch.testing.assert_close(error, errors.min(0).values, rtol=1e-12, atol=0)
    assert [tuple(row) for row in calls.tolist()] == [every[i] for i in errors.argmin(0).tolist()]


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_error_is_that_of_the_grid_and_the_end_of_greedy_beginnings(steps: int):
    """Beyond two steps the search is greedy: the best of grids whose beginning is best for where it ends."""
    paths = Paths(EDM(), 9)
    calls, error = optimal_steps(paths.states, paths.predict, paths.move, steps)
    for row, (grid, found) in enumerate(zip(calls.tolist(), error.tolist(), strict=True)):
        assert grid[0] == 0 and sorted(set(grid)) == grid and len(grid) == steps
        assert abs(paths.error(tuple(grid))[row].item() - found) < 1e-12
    best = torch.stack([paths.error((0, *rest)) for rest in combinations(range(1, 9), steps - 1)]).min(0).values
    assert (error >= best * (1 - 1e-9)).all() and (error <= 2 * best + 1e-12).all()


def test_all_steps_are_the_teachers_own():
    paths = Paths(RectifiedFlow(), 7)
    calls, error = optimal_steps(paths.states, paths.predict, paths.move, 7)
    assert calls.tolist() == [list(range(7))] * 16 and error.max() == 0
    with pytest.raises(ValueError, match="8 steps"):
        optimal_steps(paths.states, paths.predict, paths.move, 8)


def test_lower_medians_of_grids_are_a_grid():
    g = torch.Generator().manual_seed(0)
    for count in (1, 2, 7, 10):
        grids = torch.stack([torch.randperm(20, generator=g)[:5].sort().values for _ in range(count)])
        counts = torch.nn.functional.one_hot(grids, 20).sum(0)
        found = lower_median(counts)
        assert torch.equal(found, grids.median(0).values)  # torch's is the lower one
        assert (found.diff() > 0).all()


def gaussian(**kwargs) -> OptimalSteps:
    teacher = partial(GaussianDenoiser, EDM(), MEAN, COVARIANCE)
    method = OptimalSteps(teacher=teacher, **({"sampler": GridSampler(3), "fine_steps": 40} | kwargs))
    method.configure_model()
    return method


def test_the_grid_that_is_found_beats_the_solvers_own():
    method = gaussian()
    part = MicroBatch(None, {}, Draws(3, range(256), "validation"))
    before = method.student_loss(part)["distance"].item()
    own = Euler(3).solve(method.teacher, part.draws.normal("noise", (2,)), {})
    end = method.trajectory(part)[1][-1]
    assert abs(before - (own - end).square().mean().item()) < 1e-9, "it begins with the solver's own grid"
    quiet(2).fit(method, FreeData(batch_size=64))
    assert method.counts.sum().item() == 2 * 64 * 3
    after = method.student_loss(part)["distance"].item()
    assert after < 0.5 * before, (before, after)


def test_micro_batches_find_the_same_grid():
    grids = []
    for pieces in (1, 4):
        method = build(OptimalSteps, student=CopyOfTeacher(), fine_steps=16, micro_batches=pieces)
        quiet(2).fit(method, ToyData(batch_size=8))
        grids.append((method.counts, method.student.times.detach()))
    assert torch.equal(grids[0][0], grids[1][0]) and torch.equal(grids[0][1], grids[1][1])


def test_a_copy_borrows_the_network_and_a_checkpoint_holds_the_grid_alone():
    method = gaussian()
    method.request_average("ema")
    average = method.average_of_student()
    assert average.network is method.teacher and average.times.dtype == torch.float64
    method.to(torch.bfloat16)
    assert method.student.times.dtype == torch.float64
    assert [name for name, _ in method.student.named_parameters()] == ["times"]


def test_what_it_does_not_train_is_refused():
    teacher = partial(GaussianDenoiser, EDM(), MEAN, COVARIANCE)
    with pytest.raises(UserError, match=r"leave model\.init_args\.student out"):
        OptimalSteps(teacher=teacher, student=teacher)
    with pytest.raises(UserError, match="steps must be at most fine_steps"):
        OptimalSteps(teacher=teacher, sampler=GridSampler(5), fine_steps=4)


def test_fit_and_sample_through_the_command_line(tmp_path: Path):
    law = {"class_path": "RingMixture", "init_args": {"process": {"class_path": "EDM"}}}
    sampler = {"class_path": "GridSampler", "init_args": {"steps": 3}}
    config = {
        "threads": 1,
        "trainer": trainer(tmp_path, 2, checkpoint(1)),
        "model": {
            "class_path": "OptimalSteps",
            "init_args": {
                "teacher": law,
                "sampler": sampler,
                "fine_steps": 20,
            },
        },
        "data": {"class_path": "Mixture", "init_args": {"distribution": law, "batch_size": 16}},
    }
    assert fastgen("fit", "--config", write(tmp_path / "config.yaml", config)) == 0
    saved = torch.load(last(tmp_path), weights_only=True)
    assert saved["global_step"] == 2 and set(saved["state_dict"]) == {"student.times", "counts"}
    out = tmp_path / "points.safetensors"
    assert fastgen("sample", "--ckpt", last(tmp_path), "--seeds=0-9", "--out", out) == 0
    method = method_from_checkpoint(last(tmp_path))
    assert method.evaluations("student") == 3 and method.teacher is not None
    fine = method.teacher.process.solver_grid(20)
    assert set(method.student.times.tolist()) <= set(fine) and method.student.times[0] == fine[0]


def test_a_grid_that_a_scheduler_knows_can_be_handed_over(tmp_path: Path):
    """Two steps of a flow are a shift and a last time; a guided teacher is no student that is called alone."""
    folder = write_tiny_sd3(tmp_path / "teacher")
    method = OptimalSteps(teacher=partial(StableDiffusion3, str(folder)), sampler=GridSampler(2))
    method.configure_model()
    method.student.times.data.copy_(torch.tensor([1.0, 0.4], dtype=torch.float64))
    sampling = sampling_of(method, "student")
    assert sampling.times == pytest.approx([1.0, 0.4]) and not sampling.stochastic
    assert network_of(method.student) is method.teacher
    sigmas = sampling.scheduler(method.teacher).sigmas
    torch.testing.assert_close(
        sigmas[:2].double(), torch.tensor(sampling.times, dtype=torch.float64), atol=1e-4, rtol=0
    )
    method.student.guidance = 4.0
    with pytest.raises(UserError, match="OptimalSteps calls its teacher with the guidance scale 4"):
        sampling_of(method, "student")
