from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.students import AnytimeSampler, StudentSampler
from fastgen.times import UniformTime

TIMES: dict[str, tuple[Process, list[float]]] = {
    "edm": (EDM(), [80.0, 10.0, 1.0, 0.2]),
    "vp": (VP(), [999.0, 749.0, 499.0, 249.0]),
    "flow": (RectifiedFlow(), [1.0, 0.7, 0.4, 0.2]),
    "trig": (TrigFlow(), [1.5, 1.1, 0.6, 0.3]),
}
by_process = pytest.mark.parametrize(("process", "times"), TIMES.values(), ids=TIMES.keys())


class Recording(Denoiser):
    """x0 = w (tanh(x_t) + label / 10 + t / t_max), with every call written down."""

    def __init__(self, process: Process) -> None:
        super().__init__(process, "x0", (3,))
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.calls: list[tuple[Tensor, float, bool]] = []

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        assert bool((t == t[0]).all()) and t.dtype == torch.float64
        self.calls.append((x_t, t[0].item(), torch.is_grad_enabled()))
        return self.w * (torch.tanh(x_t) + (condition["label"].double() / 10 + t / self.process.t_max)[:, None])


def f64(draws: Draws, name: str) -> Tensor:
    return draws.normal(name, (3,), torch.float64)


def chain(denoiser: Recording, draws: Draws, label: Tensor, times: Sequence[float], stochastic: bool) -> list[Tensor]:
    """The x0 of every step by hand, from the coefficients only."""
    process, result = denoiser.process, []
    alphas, sigmas = process.coefficients(torch.tensor(times, dtype=torch.float64))
    first = 1.0 if isinstance(process, VP) and times[0] == process.t_max else sigmas[0]
    x = first * f64(draws, "noise")
    for i, t in enumerate(times):
        x0 = 0.7 * (torch.tanh(x) + (label.double() / 10 + t / process.t_max)[:, None])
        result.append(x0)
        if i + 1 < len(times):
            noise = f64(draws, f"noise{i + 1}") if stochastic else (x - alphas[i] * x0) / sigmas[i]
            x = alphas[i + 1] * x0 + sigmas[i + 1] * noise
    return result


LABEL = torch.tensor([0, 3, 1, 2, 0])
CONDITION = {"label": LABEL}


def draws(step: int = 0, indices: Sequence[int] = range(5)) -> Draws:
    return Draws(7, indices, "students", step=step)


@by_process
def test_one_step_is_one_call_at_the_noisiest_time(process: Process, times: list[float]):
    student, sampler = Recording(process), StudentSampler()
    x0 = sampler.sample(student, draws(), CONDITION, dtype=torch.float64)
    assert [t for _, t, _ in student.calls] == [process.t_max]
    assert sampler.trained_steps() == 1
    torch.testing.assert_close(x0, chain(student, draws(), LABEL, [process.t_max], True)[0], rtol=1e-12, atol=1e-12)


@by_process
@pytest.mark.parametrize("stochastic", [True, False])
def test_few_steps_equal_the_loop_by_hand(process: Process, times: list[float], stochastic: bool):
    student, sampler = Recording(process), StudentSampler(times, stochastic)
    x0 = sampler.sample(student, draws(), CONDITION, dtype=torch.float64)
    assert [t for _, t, _ in student.calls] == times
    expected = chain(student, draws(), LABEL, times, stochastic)[-1]
    torch.testing.assert_close(x0, expected, rtol=1e-10, atol=1e-12)


def test_first_level_of_sid():
    """One call at 2.5 on 2.5 z, not on 80 z (arXiv 2404.04057)."""
    student = Recording(EDM())
    StudentSampler([2.5]).sample(student, draws(), CONDITION, dtype=torch.float64)
    ((x, t, _),) = student.calls
    assert t == 2.5
    torch.testing.assert_close(x, 2.5 * f64(draws(), "noise"), rtol=1e-12, atol=0.0)


def test_other_numbers_of_steps_take_the_grid_of_the_process_from_the_trained_start():
    sampler = StudentSampler([700.0, 300.0])
    process = VP()
    assert sampler.schedule(process, 2) == sampler.schedule(process) == [700.0, 300.0]
    assert sampler.schedule(process, 1) == [700.0]
    assert sampler.schedule(process, 4) == process.grid(4, 700.0)
    assert StudentSampler().schedule(process, 4) == [999.0, 749.0, 499.0, 249.0]
    student = Recording(process)
    x0 = sampler.sample(student, draws(), CONDITION, steps=4, dtype=torch.float64)
    expected = chain(student, draws(), LABEL, process.grid(4, 700.0), True)[-1]
    torch.testing.assert_close(x0, expected, rtol=1e-10, atol=1e-12)


@by_process
@pytest.mark.parametrize("stochastic", [True, False])
def test_rollouts_are_the_chain_cut_at_a_shared_step(process: Process, times: list[float], stochastic: bool):
    student, sampler, seen = Recording(process), StudentSampler(times, stochastic), set()
    for number in range(12):
        student.calls.clear()
        rollout = sampler.rollout(student, draws(number), CONDITION, torch.float64)
        seen.add(rollout.step)
        assert [t for _, t, _ in student.calls] == times[: rollout.step + 1]
        assert rollout.t.tolist() == [times[rollout.step]] * 5
        expected = chain(student, draws(number), LABEL, times[: rollout.step + 1], stochastic)[-1]
        torch.testing.assert_close(rollout.x0, expected, rtol=1e-10, atol=1e-12)
        assert rollout.anchor is rollout.x0 and rollout.t_anchor.tolist() == [process.t_clean] * 5
    assert seen == {0, 1, 2, 3}


@by_process
def test_a_rollout_at_the_last_step_is_a_sample(process: Process, times: list[float]):
    student, sampler = Recording(process), StudentSampler(times)
    last = next(n for n in range(40) if draws(n).shared_integer("step", 4) == 3)
    rollout = sampler.rollout(student, draws(last), CONDITION, torch.float64)
    sample = sampler.sample(student, draws(last), CONDITION, dtype=torch.float64)
    assert rollout.step == 3 and torch.equal(rollout.x0, sample)


def test_only_the_last_call_records_a_graph():
    process, times = TIMES["flow"]
    student, sampler = Recording(process), StudentSampler(times)
    last = next(n for n in range(40) if draws(n).shared_integer("step", 4) == 3)
    rollout = sampler.rollout(student, draws(last), CONDITION, torch.float64)
    assert [grad for _, _, grad in student.calls] == [False, False, False, True]
    (gradient,) = torch.autograd.grad(rollout.x0.sum(), student.w)
    x, t, _ = student.calls[-1]
    assert not x.requires_grad
    by_hand = (torch.tanh(x) + (LABEL.double() / 10 + t / process.t_max)[:, None]).sum()
    torch.testing.assert_close(gradient, by_hand, rtol=1e-12, atol=0.0)
    assert not rollout.detach().x0.requires_grad


def test_the_step_is_shared_by_all_samples_ranks_and_micro_batches():
    for number in range(6):
        whole = draws(number)
        step = whole.shared_integer("step", 4)
        assert whole.part(2, 4).shared_integer("step", 4) == step
        assert draws(number, range(100, 105)).shared_integer("step", 4) == step


@by_process
@pytest.mark.parametrize("stochastic", [True, False])
def test_a_sample_belongs_to_its_seed(process: Process, times: list[float], stochastic: bool):
    student, sampler = Recording(process), StudentSampler(times, stochastic)
    whole = sampler.sample(student, draws(), CONDITION, dtype=torch.float64)
    for i in (0, 3):
        alone = sampler.sample(student, draws(indices=[i]), {"label": LABEL[[i]]}, dtype=torch.float64)
        torch.testing.assert_close(alone, whole[[i]], rtol=1e-14, atol=1e-15)
    turned = sampler.sample(student, draws(indices=[4, 1]), {"label": LABEL[[4, 1]]}, dtype=torch.float64)
    torch.testing.assert_close(turned, whole[[4, 1]], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("times", [[], [0.3, 0.5], [0.5, 0.5]])
def test_times_must_decrease(times: list[float]):
    with pytest.raises(UserError, match=r"decreasing|empty"):
        StudentSampler(times)


@pytest.mark.parametrize("sampler", [StudentSampler([80.0, 5.0]), AnytimeSampler(UniformTime(), steps=2)])
def test_a_rollout_begins_at_the_noise_that_it_is_given(sampler: StudentSampler):
    """Where none is given, at drawn noise; the shape and scale are those of the process."""
    network, draws, noise = Recording(EDM()), Draws(0, [1, 2], "train"), torch.full((2, 3), 0.5, dtype=torch.float64)
    for given, expected in ((noise, noise), (None, draws.normal("noise", (3,), torch.float64))):
        network.calls.clear()
        sampler.rollout(network, draws, {"label": torch.zeros(2)}, torch.float64, given)
        torch.testing.assert_close(network.calls[0][0], 80.0 * expected)
