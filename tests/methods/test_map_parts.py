"""The parts of flow maps: where states come from, and who makes targets; on Gaussians and toys."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gaussian_maps import COVARIANCE, MEAN, PROCESSES, ExactMap, exact_map, micro_batch
from torch import Tensor
from toys import FreeData, StopAfter, ToyData, build, trainer

from fastgen.callbacks import EMA
from fastgen.configuration.declared import Slot
from fastgen.configuration.diagnosis import in_value
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.averaging import ConstantEMA, HalfLifeEMA, PowerEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import ECT, LSD, SCM, Distiller, MeanFlow
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.sources import NoiseOnly, PairedData, RealData, StateSource, StudentPath, TeacherPath
from fastgen.methods.flow_maps.target_by_time import TargetByTime
from fastgen.methods.flow_maps.targets import EMATarget, SnapshotTarget, StudentTarget, TargetNetwork
from fastgen.methods.flow_maps.velocity import DataVelocity, TeacherVelocity
from fastgen.processes import VP, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.solvers import Heun
from fastgen.times import LogNormalLevel, SortedTimes

by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
LEVELS = LogNormalLevel(0.0, 0.7)


def free(count: int = 16, seed: int = 0) -> MicroBatch:
    """A batch without samples."""
    return MicroBatch(None, {}, Draws(seed, range(count), "test"))


def made(process: Process, states: StateSource, **kwargs: Any) -> MeanFlow:
    settings: dict[str, Any] = {"times": SortedTimes(LEVELS, diagonal=0.3), "velocity": TeacherVelocity()} | kwargs
    method = MeanFlow(
        student=partial(ExactMap, process),
        teacher=partial(GaussianDenoiser, process, MEAN, COVARIANCE),
        coordinates="student",
        states=states,
        **settings,
    )
    method.configure_model()
    return method


def from_noise(process: Process, noise: Tensor, t: Tensor) -> Tensor:
    """Where the exact flow takes noise from ``t_max`` to ``t``."""
    start = torch.full_like(t, process.t_max)
    return exact_map(process, process.start(noise, start), start, t)


# ---------------------------------------------------------------------- states


@by_process
def test_real_states_are_noised_samples(process: Process):
    part = micro_batch()
    state = made(process, RealData()).state(part)
    assert state.x0 is part.x0
    torch.testing.assert_close(state.x_t, process.add_noise(part.x0, state.noise, state.times.t), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"'x0' is missing.*states: NoiseOnly or TeacherPath"):
        made(process, RealData()).state(free())


@by_process
def test_pairs_keep_their_noise(process: Process):
    part = micro_batch()
    part.noise = torch.randn(16, 3, dtype=torch.float64)
    state = made(process, PairedData()).state(part)
    assert state.noise is part.noise and state.x0 is part.x0
    torch.testing.assert_close(state.x_t, process.add_noise(part.x0, part.noise, state.times.t), rtol=0, atol=0)
    with pytest.raises(UserError, match="give the data module Pairs"):
        made(process, PairedData()).state(micro_batch())


@by_process
def test_noise_states_are_where_the_flow_begins(process: Process):
    method = made(process, NoiseOnly())
    state = method.state(free())
    assert state.x0 is None and state.times.t.tolist() == [process.t_max] * 16
    assert torch.equal(state.x_t, process.start(state.noise, state.times.t))
    law = method.times.sample(free().draws.scoped("student"), process, 0)
    assert torch.equal(state.times.s, law.s) and torch.equal(state.times.r, law.r)
    if not isinstance(process, VP):  # whose derivatives are those of a table
        assert method.student_loss(free())["mean_flow"] < 1e-16, "the exact map leaves nothing"


@by_process
def test_the_student_s_path_is_the_flow_if_the_student_is(process: Process):
    for steps in (1, 3):
        state = made(process, StudentPath(steps)).state(free())
        torch.testing.assert_close(state.x_t, from_noise(process, state.noise, state.times.t), rtol=1e-7, atol=1e-8)
        assert not state.x_t.requires_grad and state.x0 is None


def test_the_student_s_path_is_walked_by_the_student_and_not_by_its_target():
    method = build(MeanFlow, states=StudentPath(2), velocity=TeacherVelocity(), target=SnapshotTarget(0))
    method.configure_model()
    part = MicroBatch(None, {"label": torch.zeros(4, dtype=torch.int64)}, Draws(0, range(4), "test"))
    states = [method.state(part).x_t]
    for network in (*method.target_weights, method.student):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05)
        states.append(method.state(part).x_t)
    assert [torch.equal(states[0], state) for state in states] == [True, True, False]


@by_process
def test_the_teacher_s_path_tends_to_the_flow(process: Process):
    """Second order for Heun; the states begin at pure noise and end at their own times."""
    errors = []
    for steps in (16, 32, 64):
        method = made(process, TeacherPath(Heun(), steps))
        state = method.state(free(64))
        errors.append((state.x_t - from_noise(process, state.noise, state.times.t)).square().mean().sqrt())
        assert method.needs_teacher() and state.x0 is None
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3, errors
    with pytest.raises(UserError, match="its solver takes no guidance"):
        TeacherPath(Heun(guidance=2.0))


def test_the_teacher_s_path_is_guided_as_the_method_says():
    labels = {"label": torch.arange(8) % 4}
    part = MicroBatch(None, labels, Draws(0, range(8), "test"))
    states = []
    for low in (1.0, 3.0):
        method = build(SCM, states=TeacherPath(steps=2), guidance=TeacherGuidance(low))
        method.configure_model()
        states.append(method.state(part).x_t)
    assert (states[0] - states[1]).abs().max() > 1e-4


def test_what_needs_a_datum_says_so():
    method = made(RectifiedFlow(), NoiseOnly(), velocity=DataVelocity())
    with pytest.raises(UserError, match="DataVelocity needs the real sample that a state was made of"):
        method.student_loss(free())
    method = build(ECT, states=TeacherPath(steps=1))
    with pytest.raises(UserError, match="SameNoise needs the real sample"):
        trainer(1).fit(method, FreeData(batch_size=4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("states", [TeacherPath(steps=2), StudentPath(), NoiseOnly()], ids=lambda s: type(s).__name__)
def test_flow_maps_train_without_data(states: StateSource):
    for cls in (SCM, MeanFlow):
        method = build(cls, states=states, velocity=TeacherVelocity())
        run = trainer(2)
        run.fit(method, FreeData(batch_size=4))
        assert run.global_step == 2 and run.callback_metrics["student/grad_norm"] > 0


# ---------------------------------------------------------------------- targets


def weights(module: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def fitted(target: TargetNetwork, updates: int, *callbacks: Any, cls: type[Distiller] = ECT, **kwargs: Any) -> Any:
    method = build(cls, target=target, student_optimizer=partial(torch.optim.Adam, lr=1e-2), seed=3)
    trainer(updates, *callbacks).fit(method, ToyData(batch_size=4), weights_only=True, **kwargs)
    return method


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", [ConstantEMA(0.7), HalfLifeEMA(0.02, None), PowerEMA(0.1)], ids=str)
def test_an_averaged_target_is_what_the_callback_keeps(rule: Any):
    """Bit for bit, whatever the rule: configs that used the callback's average have the same numbers."""
    method = fitted(EMATarget(rule), 4, EMA(rule=rule))
    (kept,) = method.target_weights
    assert method.target_network() is kept and not kept.training
    assert torch.equal(weights(kept), weights(method.averages["ema"]))
    assert not torch.equal(weights(kept), weights(method.student))


@pytest.mark.filterwarnings("ignore")
def test_the_usual_average_of_a_target_is_lcms():
    assert EMATarget().rule == ConstantEMA(0.95)


def test_snapshots_are_taken_every_so_many_updates():
    seen: dict[int, Tensor] = {}

    class Watch(EMA):
        def after_student_update(self, run: Any, method: Any, batch: Any) -> None:
            seen[run.global_step] = weights(method.student)
            assert torch.equal(weights(method.target_weights[0]), seen.get(run.global_step // 2 * 2, first))

    method = build(ECT, target=SnapshotTarget(2), student_optimizer=partial(torch.optim.Adam, lr=1e-2))
    method.configure_model()
    with torch.no_grad():  # as weights that are read after the roles were built
        for parameter in method.student.parameters():
            parameter += 0.1
    first = weights(method.student)
    trainer(5, Watch("watch")).fit(method, ToyData(batch_size=4))
    assert len(seen) == 5
    never = build(ECT, target=SnapshotTarget(every=0))
    never.configure_model()
    start = weights(never.student)
    trainer(3).fit(never, ToyData(batch_size=4))
    assert torch.equal(weights(never.target_weights[0]), start) and not torch.equal(weights(never.student), start)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "target",
    [EMATarget(HalfLifeEMA(0.02)), SnapshotTarget(3), TargetByTime(0.5, EMATarget(), SnapshotTarget(2))],
    ids=lambda target: type(target).__name__,
)
def test_targets_resume_bit_for_bit(target: TargetNetwork, tmp_path: Path):
    path = str(tmp_path / "half.ckpt")
    straight = fitted(target, 5, StopAfter(5, 2, path))
    resumed = fitted(target, 5, StopAfter(5, 2, None), ckpt_path=path)
    one, other = straight.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.startswith("target_weights.0.") for name in torch.load(path, weights_only=True)["state_dict"])
    assert int(resumed.target_weights.updates) == 5 and int(resumed.target_weights.samples) == 20


def test_a_target_by_time_asks_two_networks():
    method = build(ECT, target=TargetByTime(2.0, StudentTarget(), SnapshotTarget(0)))
    method.configure_model()
    with torch.no_grad():
        for parameter in method.target_weights.parameters():
            parameter += 0.3
    x, t = torch.randn(6, 2), torch.tensor([0.1, 1.0, 2.0, 2.1, 5.0, 80.0], dtype=torch.float64)
    label = {"label": torch.arange(6) % 4}
    found = method.target_network()(x, t, label).x0
    expected = [method.target_weights[0](x, t, label).x0, method.student(x, t, label).x0]
    torch.testing.assert_close(found, torch.where((t <= 2.0)[:, None], *expected))


def test_a_target_by_time_keeps_each_network_by_its_own_rule():
    target = TargetByTime(2.0, EMATarget(ConstantEMA(0.7)), SnapshotTarget(2))
    assert [target.beta(update, 0, 4) for update in (1, 2)] == [[0.7, 1.0], [0.7, 0.0]]
    method = build(ECT, target=target)
    method.configure_model()
    with torch.no_grad():
        for number, kept in enumerate(method.target_weights, 1):
            for parameter in kept.parameters():
                parameter += 0.1 * number
    x, label = torch.randn(2, 2), {"label": torch.arange(2)}
    above, below = method.target_weights
    for t, kept in ((5.0, above), (0.5, below)):
        times = torch.full((2,), t, dtype=torch.float64)
        torch.testing.assert_close(method.target_network()(x, times, label).x0, kept(x, times, label).x0)


def test_a_student_that_is_its_own_target_keeps_nothing():
    method = build(LSD)
    method.configure_model()
    assert method.target_network() is method.student
    assert not [name for name in method.state_dict() if name.startswith("target")]


def test_the_name_of_a_callback_is_no_target_any_more():
    spec = {"class_path": "LCM", "init_args": {"target": "lcm_target"}}
    fault = next(in_value(spec, Slot(hint=Distiller), "model"))
    assert fault.startswith(
        "model.init_args.target names no EMA callback any more; write target: {class_path: EMATarge"
    )
    spec["init_args"]["target"] = "EMATarget"
    assert not list(in_value(spec, Slot(hint=Distiller), "model"))
    with pytest.raises(UserError, match="ECT: target must be a TargetNetwork, got str"):
        build(ECT, target="slow")


SOURCES = [RealData(), PairedData(), NoiseOnly(), TeacherPath(), StudentPath()]
TARGETS = [StudentTarget(), EMATarget(), SnapshotTarget(), TargetByTime()]


@pytest.mark.parametrize("part", [*SOURCES, *TARGETS], ids=lambda part: type(part).__name__)
def test_parts_are_frozen_values(part: Any):
    assert part == type(part)() and None not in [getattr(part, field.name) for field in fields(part)]
    with pytest.raises(FrozenInstanceError):
        part.steps = 3
