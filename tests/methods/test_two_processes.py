"""A teacher (and a critic) that live on another process than the student are asked through a view of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from every_method import CLIPS, METHODS, SPECIAL
from torch import Tensor
from toys import CLASSES, StirredLoRA, arguments, build, clip_network, network

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.on_process import OnProcess, same_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import GAN, DistributionMatching
from fastgen.methods import (
    DMD2,
    KD,
    MSD,
    Distiller,
    FlowMapDistiller,
    MeanFlow,
    OptimalSteps,
    PhasedDMD,
    Reflow,
    ScoreDistiller,
    SeverallyGuided,
)
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import TeacherStep
from fastgen.methods.flow_maps.velocity import TeacherVelocity
from fastgen.processes import EDM, VP, Prediction, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import PhasedSampler, RenoiseSampler, TrajectorySampler
from fastgen.sampling.solvers import Euler
from fastgen.times import LadderTimes, UniformStep, UniformTime

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
PAIRS: dict[str, tuple[Process, Process]] = {
    "edm_flow": (EDM(), RectifiedFlow()),
    "vp_trig": (VP(), TrigFlow(0.5)),
    "flow_edm": (RectifiedFlow(), EDM()),
    "cut_table": (VP(), VP.from_betas(BETAS[:626])),
}
"""Processes of teacher and student."""
by_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())

OTHERWISE = {
    "ADP",
    "Bespoke",
    "DODE",
    "GDD",
    "GET",
    "KD",
    "OptimalSteps",
    "RFPP",
    "Reflow",
    "SDXS",
    "SlimFlow",
    "TeacherTraining",
}
OTHERWISE |= {"BufferedForcing", "StreamDiT", "DiffusionForcing", "ODEInitialisation", "TeacherForcing"}
"""Methods that never ask a teacher at the student's samples, or let it solve; see the tests below."""
ASKING = [cls for cls in METHODS if cls.__name__ not in OTHERWISE]
SETTINGS: dict[str, dict[str, Any]] = {
    "DMD": {"extras": []},  # its pairs are the teacher's own: another grid on another process
    "TDM": {"sampler": TrajectorySampler(steps=2)},
    "VideoBLADE": {"sampler": TrajectorySampler(steps=2)},
    "SCFM": {"times": LadderTimes(teacher=1.0)},  # every first step
    "ASD": {"extras": []},  # the heads are on the critic's own layers
    "PhasedDMD": {"sampler": PhasedSampler(steps=2)},
}


def made(cls: type[Distiller], teacher: Callable[[], Denoiser], student: Process, **kwargs: Any) -> Distiller:
    settings = SPECIAL.get(cls.__name__, {}) | SETTINGS.get(cls.__name__, {})
    names = arguments(cls)
    if issubclass(cls, ScoreDistiller):
        settings = settings | {"guidance": Guidance(2.0) if cls is MSD else Guidance(2.0, 1.5, 1.5, 0.3)}
    if issubclass(cls, SeverallyGuided):
        settings = settings | {"guidance": Guidance(1.0, 1.5, 1.5, 0.3)}
    if issubclass(cls, FlowMapDistiller):
        settings = settings | {"guidance": TeacherGuidance(2.0)}
        settings |= {"velocity": TeacherVelocity()} if "velocity" in names else {}
    if "transition" in names:
        settings = settings | {"transition": TeacherStep()}
    if "solver" in names:
        settings = settings | {"solver": Euler(steps=2, guidance=2.0)}
    own: Callable[[], Denoiser] = partial(_double, 1, student)
    if settings.get("student") is CLIPS["student"]:
        own = lambda: clip_network(1, process=student).double()  # noqa: E731
        settings = settings | {"sampler": replace(settings["sampler"], times="grid", steps=2)}
    torch.manual_seed(0)  # heads of discriminators
    method = build(cls, **(settings | {"teacher": teacher, "student": own} | kwargs)).double()
    method.configure_model()
    return method.double()


def _double(seed: int, process: Process) -> Denoiser:
    return network(seed, process).double()


def seen(seed: int, process: Process, on: Process) -> Denoiser:
    """What a careful user would have written: the network wrapped by hand."""
    return OnProcess(_double(seed, process), on)


def batch(count: int = 6) -> MicroBatch:
    x0 = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)).double()
    return MicroBatch(x0, {"label": torch.arange(count) % CLASSES}, Draws(3, range(count), "train"))


def losses_and_gradients(method: Distiller) -> dict[str, Tensor]:
    """Every loss of every role, and the gradients of what the role trains."""
    found, part = {}, batch()
    for role in method.roles():
        with method.only(role):
            losses = method.losses(role, part)
            parameters = method.trained_parameters[role]
            gradients = torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)
        found |= {f"{role}/{name}": value.detach() for name, value in losses.items()}
        found[f"{role} gradient"] = torch.cat([g.flatten() for g in gradients if g is not None])
    return found


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        scale = float(other[name].abs().max())
        assert scale > 0.0 and bool(value.isfinite().all()), name
        torch.testing.assert_close(value, other[name], rtol=1e-8, atol=1e-8 * scale, msg=lambda m, n=name: f"{n}: {m}")


def within(method: Distiller, theirs: Process) -> Distiller:
    """A flow map is asked below the teacher's noisiest level: beyond it each route clips in coordinates of its own."""
    if isinstance(method, FlowMapDistiller):
        level = 0.98 * theirs.ratio(torch.tensor(theirs.t_max, dtype=torch.float64))
        method.t_max = min(method.t_max, float(method.coordinates.time(level)))
    return method


@by_pair
@pytest.mark.parametrize("cls", ASKING, ids=lambda cls: cls.__name__)
def test_the_library_s_view_is_the_view_by_hand(cls: type[Distiller], pair: tuple[Process, Process]):
    theirs, own = pair
    roles = "critic" in arguments(cls)
    automatic = made(
        cls, partial(_double, 0, theirs), own, **({"critic": partial(_double, 2, theirs)} if roles else {})
    )
    by_hand = {"critic": partial(seen, 2, theirs, own)} if roles else {}
    manual = made(cls, partial(seen, 0, theirs, own), own, **by_hand)
    found = [losses_and_gradients(within(method, theirs)) for method in (automatic, manual)]
    assert_equal(*found)


@by_pair
@pytest.mark.parametrize("features", ["critic", "teacher", "own"])
def test_a_discriminator_and_an_adapted_critic(features: str, pair: tuple[Process, Process]):
    """The default critic is the teacher's copy, or an adapter on it, and lives where the teacher does."""
    theirs, own = pair
    found = []
    for teacher in (partial(_double, 0, theirs), partial(seen, 0, theirs, own)):
        gan = GAN(1.0, 1.0, features=features, r1_weight=1.0, time=UniformTime(0.2, 0.8))  # type: ignore[arg-type]
        method = made(DMD2, teacher, own, critic=StirredLoRA(rank=2), extras=[gan])
        found.append(losses_and_gradients(method))
    assert_equal(*found)


@by_pair
def test_distribution_matching_beside_another_method(pair: tuple[Process, Process]):
    theirs, own = pair
    found = []
    for teacher in (partial(_double, 0, theirs), partial(seen, 0, theirs, own)):
        matching = DistributionMatching(1.0, critic=StirredLoRA(rank=2), guidance=Guidance(2.0, 1.5, 1.5, 0.3))
        found.append(losses_and_gradients(made(MeanFlow, teacher, own, extras=[matching])))
    assert_equal(*found)


@by_pair
@pytest.mark.parametrize("cls", [KD, Reflow])
def test_pairs_are_noise_and_data_on_every_process(cls: type[Distiller], pair: tuple[Process, Process]):
    """The teacher's solver runs where the teacher lives; what it makes means the same to the student."""
    theirs, own = pair
    method, given = (made(cls, partial(_double, 0, theirs), own) for _ in range(2))
    assert method.teacher is not None and given.teacher is not None
    part, known = batch(), batch()
    part.x0 = None
    known.noise = known.draws.normal("pair", (2,), torch.float64)
    known.x0 = given.solver.solve(given.teacher, known.noise, known.condition)
    for name, value in method.student_loss(part).items():
        assert torch.equal(value, given.student_loss(known)[name])


def test_optimal_steps_takes_no_other_student():
    with pytest.raises(UserError, match="trains no network"):
        OptimalSteps(teacher=partial(network, 0), student=partial(network, 1, RectifiedFlow()))


def test_levels_beyond_those_of_the_teacher_are_its_noisiest():
    """A flow ends in pure noise, which no network of VP or EDM was trained at."""
    t = torch.ones(3, dtype=torch.float64)
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    for process in (EDM(), VP(), VP.from_betas(BETAS[:626])):
        x, s = RectifiedFlow().warp(noise, t, process)
        assert bool((s <= process.t_max * (1 + 1e-6)).all()) and bool(x.isfinite().all())
        torch.testing.assert_close(x, process.sigma(s)[:, None] * noise)
        prediction = OnProcess(_double(0, process), RectifiedFlow())(noise, t, {"label": torch.arange(3)})
        assert bool(prediction.x0.isfinite().all()) and bool(prediction.velocity.isfinite().all())


def test_a_view_guides_by_the_rule_of_its_network():
    class Rescaled(MLP):
        def guide(self, conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
            mixed = conditional.guided(unconditional, scale)
            assert mixed.kind == self.prediction and mixed.process is self.process
            value = mixed.value * conditional.value.norm() / mixed.value.norm()
            return Prediction(self.process, mixed.x_t, mixed.t, value, mixed.kind)

    theirs, own = VP(), RectifiedFlow()
    inner = Rescaled(theirs, width=8, depth=1, num_classes=CLASSES).double()
    view, part = OnProcess(inner, own), batch()
    x, t = torch.randn(6, 2).double(), torch.linspace(0.2, 0.8, 6, dtype=torch.float64)
    found = view.guide(*(view(x, t, {"label": label}) for label in (part.condition["label"], torch.full((6,), 3))), 3.0)
    x_own, t_own = own.warp(x, t, theirs)
    labels = (part.condition["label"], torch.full((6,), 3))
    expected = inner.guide(*(inner(x_own, t_own, {"label": label}) for label in labels), 3.0)
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.noise, expected.noise, rtol=1e-9, atol=1e-9)


def test_tables_that_end_at_different_steps_are_different_processes():
    assert same_process(VP(), VP.from_betas(BETAS))
    assert not same_process(VP(), VP.from_betas(BETAS[:990]))
    assert not same_process(EDM(), EDM(sigma_max=100.0)) and not same_process(TrigFlow(0.5), TrigFlow(1.0))
    assert same_process(RectifiedFlow(), RectifiedFlow(shift=3.0))


def test_times_that_the_student_s_process_does_not_have_are_refused():
    cut = VP.from_betas(BETAS[:626])
    with pytest.raises(UserError, match=r"\[999.0\].*up to 625"):
        made(DMD2, partial(_double, 0, VP()), cut, sampler=RenoiseSampler([999.0]))
    with pytest.raises(UserError, match=r"above 0 "):
        made(DMD2, partial(_double, 0, EDM()), EDM(), sampler=RenoiseSampler([5.0, 0.0]))
    method = made(DMD2, partial(_double, 0, VP()), cut, renoise_time=UniformStep(600, 979))
    with pytest.raises(UserError, match="ends at 625"):
        method.losses("student", batch())


def test_phases_of_the_critic_end_at_the_levels_of_the_student_s():
    theirs, own = VP(), RectifiedFlow()
    method = made(
        PhasedDMD, partial(_double, 0, theirs), own, critic=CopyOfTeacher(), sampler=PhasedSampler([1.0, 0.5])
    )
    assert method.student.boundaries == [0.5]
    (boundary,) = method.critic.boundaries
    assert float(theirs.ratio(torch.tensor(boundary, dtype=torch.float64))) == pytest.approx(1.0, rel=1e-9)
