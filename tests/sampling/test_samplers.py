"""Samplers against chains by hand, on every process; fp64."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fastgen, mixture, write
from torch import Tensor, nn
from toys import network

from fastgen.conditions import Condition
from fastgen.configuration.declared import Slot
from fastgen.configuration.diagnosis import in_value
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.policies import GMFlow
from fastgen.denoisers.wrappers.policy import PolicyDenoiser
from fastgen.errors import UserError
from fastgen.methods import TDM, Distiller, OptimalSteps, PhasedDMD, PiFlow
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import (
    AnytimeSampler,
    GridSampler,
    JumpSampler,
    PhasedSampler,
    PolicySampler,
    RenoiseSampler,
    Sampler,
    TrajectorySampler,
)
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
    student, sampler = Recording(process), RenoiseSampler()
    x0 = sampler.sample(student, draws(), CONDITION, dtype=torch.float64)
    assert [t for _, t, _ in student.calls] == [process.t_max]
    assert sampler.trained_steps() == 1
    torch.testing.assert_close(x0, chain(student, draws(), LABEL, [process.t_max], True)[0], rtol=1e-12, atol=1e-12)


@by_process
@pytest.mark.parametrize("stochastic", [True, False])
def test_few_steps_equal_the_loop_by_hand(process: Process, times: list[float], stochastic: bool):
    student, sampler = Recording(process), (RenoiseSampler if stochastic else JumpSampler)(times)
    x0 = sampler.sample(student, draws(), CONDITION, dtype=torch.float64)
    assert [t for _, t, _ in student.calls] == times
    expected = chain(student, draws(), LABEL, times, stochastic)[-1]
    torch.testing.assert_close(x0, expected, rtol=1e-10, atol=1e-12)


def test_first_level_of_sid():
    """One call at 2.5 on 2.5 z, not on 80 z (arXiv 2404.04057)."""
    student = Recording(EDM())
    RenoiseSampler([2.5]).sample(student, draws(), CONDITION, dtype=torch.float64)
    ((x, t, _),) = student.calls
    assert t == 2.5
    torch.testing.assert_close(x, 2.5 * f64(draws(), "noise"), rtol=1e-12, atol=0.0)


def test_other_numbers_of_steps_take_the_grid_of_the_process_from_the_trained_start():
    sampler = RenoiseSampler([700.0, 300.0])
    process = VP()
    student = Recording(process)
    assert sampler.schedule(student, 2) == sampler.schedule(student) == [700.0, 300.0]
    assert sampler.schedule(student, 1) == [700.0]
    assert sampler.schedule(student, 4) == process.grid(4, 700.0)
    assert RenoiseSampler().schedule(student, 4) == [999.0, 749.0, 499.0, 249.0]
    x0 = sampler.sample(student, draws(), CONDITION, steps=4, dtype=torch.float64)
    expected = chain(student, draws(), LABEL, process.grid(4, 700.0), True)[-1]
    torch.testing.assert_close(x0, expected, rtol=1e-10, atol=1e-12)


@by_process
@pytest.mark.parametrize("stochastic", [True, False])
def test_rollouts_are_the_chain_cut_at_a_shared_step(process: Process, times: list[float], stochastic: bool):
    student, sampler, seen = Recording(process), (RenoiseSampler if stochastic else JumpSampler)(times), set()
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
    student, sampler = Recording(process), RenoiseSampler(times)
    last = next(n for n in range(40) if draws(n).shared_integer("step", 4) == 3)
    rollout = sampler.rollout(student, draws(last), CONDITION, torch.float64)
    sample = sampler.sample(student, draws(last), CONDITION, dtype=torch.float64)
    assert rollout.step == 3 and torch.equal(rollout.x0, sample)


def test_only_the_last_call_records_a_graph():
    process, times = TIMES["flow"]
    student, sampler = Recording(process), RenoiseSampler(times)
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
    student, sampler = Recording(process), (RenoiseSampler if stochastic else JumpSampler)(times)
    whole = sampler.sample(student, draws(), CONDITION, dtype=torch.float64)
    for i in (0, 3):
        alone = sampler.sample(student, draws(indices=[i]), {"label": LABEL[[i]]}, dtype=torch.float64)
        torch.testing.assert_close(alone, whole[[i]], rtol=1e-14, atol=1e-15)
    turned = sampler.sample(student, draws(indices=[4, 1]), {"label": LABEL[[4, 1]]}, dtype=torch.float64)
    torch.testing.assert_close(turned, whole[[4, 1]], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("times", [[], [0.3, 0.5], [0.5, 0.5]])
def test_times_must_decrease(times: list[float]):
    with pytest.raises(UserError, match=r"decreasing|empty"):
        RenoiseSampler(times)


@pytest.mark.parametrize("sampler", [RenoiseSampler([80.0, 5.0]), AnytimeSampler(UniformTime(), steps=2)])
def test_a_rollout_begins_at_the_noise_that_it_is_given(sampler: Sampler):
    """Where none is given, at drawn noise; the shape and scale are those of the process."""
    network, draws, noise = Recording(EDM()), Draws(0, [1, 2], "train"), torch.full((2, 3), 0.5, dtype=torch.float64)
    for given, expected in ((noise, noise), (None, draws.normal("noise", (3,), torch.float64))):
        network.calls.clear()
        sampler.rollout(network, draws, {"label": torch.zeros(2)}, torch.float64, given)
        torch.testing.assert_close(network.calls[0][0], 80.0 * expected)


# ---------------------------------------------------------------------- what all have in common


def all_samplers(kind: type[Sampler] = Sampler) -> set[type[Sampler]]:
    found = {kind} if not inspect.isabstract(kind) and kind.__module__.startswith("fastgen.") else set()
    return found.union(*(all_samplers(child) for child in kind.__subclasses__()))


by_sampler = pytest.mark.parametrize("kind", sorted(all_samplers(), key=str), ids=lambda kind: kind.__name__)


@by_sampler
def test_samplers_are_frozen_values_with_one_signature(kind: type[Sampler]):
    sampler = kind()
    assert sampler == kind() and sampler == kind(**{f.name: getattr(sampler, f.name) for f in fields(sampler)})
    assert None not in [getattr(sampler, field.name) for field in fields(sampler)], "a default that does not show"
    with pytest.raises(FrozenInstanceError):
        sampler.steps = 3  # type: ignore[attr-defined]
    for name in ("schedule", "trained_steps", "evaluations", "sample", "rollout"):
        own, shared = (inspect.signature(getattr(cls, name)) for cls in (kind, Sampler))
        count = len(shared.parameters)
        more = list(own.parameters.values())[count:]
        assert list(own.parameters.values())[:count] == list(shared.parameters.values())
        assert own.return_annotation == shared.return_annotation
        assert all(parameter.default is not parameter.empty for parameter in more), "who knows a Sampler can call it"


def test_a_sampler_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Sampler()  # type: ignore[abstract]


def test_a_flow_map_is_told_that_the_last_call_of_a_phased_rollout_leads_to_the_end_of_the_phase():
    told: list[tuple[float, float]] = []

    class FlowMap(Recording):
        takes_second_time = True

        def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
            assert s is not None
            told.append((t[0].item(), s[0].item()))
            return super().predict(x_t, t, condition)

    ends = {20.0: 5.0, 5.0: 1.0, 1.0: 0.3, 0.3: 0.0}
    for phase, end in ((0, 1.0), (1, 0.0)):
        for update in range(8):
            told.clear()
            PhasedSampler([20.0, 5.0, 1.0, 0.3]).rollout(
                FlowMap(EDM()), draws(update), CONDITION, torch.float64, phase=phase
            )
            assert told[-1][1] == end and all(ends[t] == s for t, s in told[:-1])


@pytest.mark.parametrize("sampler", [TrajectorySampler(steps=3), PhasedSampler(steps=4)])
def test_solvers_too_begin_at_the_noise_that_they_are_given(sampler: Sampler):
    network, noise = Linear(EDM()), torch.full((2, 3), 0.5, dtype=torch.float64)
    sampler.rollout(network, Draws(0, [1, 2], "train"), {}, torch.float64, noise)
    torch.testing.assert_close(network.seen[0], 80.0 * noise)


class Linear(Denoiser):
    """x0 = w x_t / t_max."""

    def __init__(self, process: Process) -> None:
        super().__init__(process, "x0", (3,))
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        self.seen.append(x_t)
        return self.w * x_t / self.process.t_max


# ---------------------------------------------------------------------- gradients through several calls


@by_process
@pytest.mark.parametrize("kind", [RenoiseSampler, JumpSampler])
@pytest.mark.parametrize("calls", [1, 2, 4, 9])
def test_the_gradient_runs_through_the_last_calls(
    process: Process, times: list[float], kind: type[RenoiseSampler | JumpSampler], calls: int
):
    """By the chain rule: earlier calls are constants, later ones functions of w."""
    student = Recording(process)
    sampler = kind(times, stop="last", gradient_calls=calls)
    rollout = sampler.rollout(student, draws(), CONDITION, torch.float64)
    assert rollout.step == 3 and [grad for *_, grad in student.calls] == [i > 3 - calls for i in range(4)]
    (gradient,) = torch.autograd.grad(rollout.x0.sum(), student.w)

    def ending(w: Tensor) -> Tensor:
        first = max(4 - calls, 0)
        x = rollout.trajectory[first].x_t.detach()
        alphas, sigmas = process.coefficients(torch.tensor(times, dtype=torch.float64))
        for i in range(first, 4):
            x0 = w * (torch.tanh(x) + (LABEL.double() / 10 + times[i] / process.t_max)[:, None])
            if i < 3:
                noise = f64(draws(), f"noise{i + 1}") if kind is RenoiseSampler else (x - alphas[i] * x0) / sigmas[i]
                x = alphas[i + 1] * x0 + sigmas[i + 1] * noise
        return x0.sum()

    w = student.w.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(ending(w), w)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@by_process
def test_a_rollout_hands_out_its_calls(process: Process, times: list[float]):
    student = Recording(process)
    rollout = JumpSampler(times, stop="last").rollout(student, draws(), CONDITION, torch.float64)
    found = [call.x0 for call in rollout.trajectory]
    expected = chain(student, draws(), LABEL, times, False)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert [call.t[0].item() for call in rollout.trajectory] == times
    assert all(torch.equal(call.x_t, x) for call, (x, *_) in zip(rollout.trajectory, student.calls, strict=True))
    assert rollout.trajectory[-1].x0.requires_grad and not rollout.detach().trajectory[-1].x0.requires_grad
    with pytest.raises(UserError, match="gradient_calls must be an integer from 1"):
        JumpSampler(gradient_calls=0)


# ---------------------------------------------------------------------- methods that need a certain sampler


@pytest.mark.parametrize(
    ("cls", "sampler", "wanted"),
    [
        (PhasedDMD, RenoiseSampler(), "PhasedSampler"),
        (TDM, RenoiseSampler([5.0, 1.0]), "TrajectorySampler"),
        (PiFlow, JumpSampler(), "PolicySampler"),
        (OptimalSteps, JumpSampler(), "GridSampler"),
    ],
)
def test_a_method_names_the_sampler_that_it_needs(cls: type[Distiller], sampler: Sampler, wanted: str):
    given = f"{cls.__name__}: sampler must be a {wanted}, got {type(sampler).__name__}."
    with pytest.raises(UserError) as refusal:
        cls(teacher=lambda: Recording(EDM()), sampler=sampler)
    assert str(refusal.value) == given
    spec = {"class_path": cls.__name__, "init_args": {"sampler": {"class_path": type(sampler).__name__}}}
    place = "model.init_args.sampler.class_path"
    (fault,) = in_value(spec, Slot(hint=Distiller), "model")
    assert fault == f"{place}: there is no {wanted} called '{type(sampler).__name__}'; choose one of {wanted}."


@pytest.mark.parametrize(
    ("cls", "option"), [(PiFlow, "substeps"), (PiFlow, "last_segment"), (OptimalSteps, "steps")], ids=str
)
def test_options_that_moved_to_the_sampler_are_named(cls: type[Distiller], option: str):
    spec = {"class_path": cls.__name__, "init_args": {option: 4}}
    fault = next(in_value(spec, Slot(hint=Distiller), "model"))
    assert fault.startswith(f"model.init_args.{option} is the sampler's now: write sampler: ")


@pytest.mark.parametrize("sampler", ["TrajectorySampler", "JumpSampler", "RenoiseSampler"])
def test_pairs_are_distilled_along_any_chain_through_the_command_line(sampler: str, tmp_path: Path):
    given: dict[str, Any] = {"sampler": {"class_path": sampler, "init_args": {"times": [5.0, 0.8]}}}
    config = mixture(tmp_path, "KD", steps=1, batch_size=4, **given)
    del config["model"]["init_args"]["critic"], config["model"]["init_args"]["critic_optimizer"]
    assert fastgen("fit", "--config", write(tmp_path / "config.yaml", config)) == 0


# ---------------------------------------------------------------------- policies


@by_process
def test_a_rollout_of_policies_ends_where_the_sample_does(process: Process, times: list[float]):
    """In the last segment x0 is the sample; in an earlier one the anchor is where its policy leads."""
    student = PolicyDenoiser(network(1, process).double(), GMFlow(3))
    sampler, seen = PolicySampler(times, substeps=16), set()
    label = {"label": LABEL[:, None].squeeze(1)}
    for number in range(12):
        numbers = draws(number)
        rollout = sampler.rollout(student, numbers, label, torch.float64)
        edges = sampler.edges(student)
        noise = numbers.normal("noise", student.sample_shape, torch.float64)
        with torch.no_grad():
            x = sampler.chain(student, noise, label, edges[: rollout.step + 2])
        torch.testing.assert_close(rollout.anchor, x, rtol=1e-10, atol=1e-12)
        assert rollout.t_anchor.tolist() == [edges[rollout.step + 1]] * 5 and rollout.x0.requires_grad
        if rollout.step == 3:
            sample = sampler.sample(student, numbers, label, dtype=torch.float64)
            torch.testing.assert_close(rollout.x0.detach(), sample, rtol=1e-10, atol=1e-12)
        seen.add(rollout.step)
    assert seen == {0, 1, 2, 3}


def test_policies_and_grids_want_their_students():
    plain = network(1, EDM())
    with pytest.raises(UserError, match="PolicySampler follows policies, and ToyMLP predicts none; train it"):
        PolicySampler().schedule(plain)
    with pytest.raises(UserError, match="GridSampler calls a student at times of its own, and ToyMLP has none;"):
        GridSampler().schedule(plain)
    with pytest.raises(UserError, match="takes last_segment for its own grid"):
        PolicySampler([5.0, 1.0], last_segment=0.5)
