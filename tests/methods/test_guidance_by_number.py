"""Guidance reaches everyone who asks a guided network, by number.

The toy's condition adds ``effect * direction[label]`` to x0 and its null condition adds nothing, so guidance by w is an
effect of w: whoever forgets the scale, applies it twice or to the wrong network ends elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from every_method import GRADIENT_FREE, METHODS, fit, iterations, make
from torch import Tensor, nn
from toys import CLASSES, arguments

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.networks.labels import LabelledDenoiser
from fastgen.denoisers.wrappers.guided import Guided, guided
from fastgen.denoisers.wrappers.on_grid import OnGrid
from fastgen.extras import DistributionMatching
from fastgen.methods import SCM, DecoupledDMD, Distiller, FlowMapDistiller, ScoreDistiller, TrajectoryDistiller
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import TeacherStep
from fastgen.methods.flow_maps.velocity import TeacherVelocity
from fastgen.methods.solvers.base import SolverDistiller
from fastgen.objectives.metrics import SquaredError
from fastgen.processes import EDM, VP, Prediction, Process, RectifiedFlow, TrigFlow
from fastgen.sampling.solvers import BlockCache, Euler, FasterDiffusion, Heun, Solver

pytestmark = pytest.mark.filterwarnings("ignore")

W = 2.5
OWN_RULE = 0.5
"""What the toy family's own rule adds to a scale."""
LABEL = torch.tensor([0, 1, 2, 1])
PROCESSES = [EDM(), VP(), RectifiedFlow(), TrigFlow()]


class Told(LabelledDenoiser):
    """x0 = x_t / (1 + ratio^2) + effect * direction[label]; its family guides by ``OWN_RULE`` more than told."""

    def __init__(self, effect: float, process: Process | None = None) -> None:
        super().__init__(process or EDM(), "x0", (2,), CLASSES)
        self.effect = effect
        self.directions = nn.Parameter(torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]]))
        self.shrink = nn.Parameter(torch.ones(()))
        self.body = nn.Identity()

    @property
    def feature_path(self) -> str:
        return "body"

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        told = torch.cat([self.directions, self.directions.new_zeros(1, 2)])[self.labels(condition, x_t)]
        shrunk = self.body(x_t) / (1.0 + self.process.ratio(t).square().to(x_t.dtype))[:, None]
        return self.shrink * shrunk + self.effect * told

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
        return conditional.guided(unconditional, scale + OWN_RULE)


class Plain(Told):
    """One whose family has no rule of its own."""

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
        return conditional.guided(unconditional, scale)


def subclasses(cls: type) -> set[type]:
    return {cls, *(deeper for child in cls.__subclasses__() for deeper in subclasses(child))}


SOLVERS = sorted(
    (
        cls
        for cls in subclasses(Solver) - {FasterDiffusion, BlockCache}  # of U-Nets and of transformers alone
        if cls.__module__.startswith("fastgen.") and not cls.__abstractmethods__
    ),
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("cls", SOLVERS, ids=lambda cls: cls.__name__)
def test_solvers(cls: type[Solver], process: Process):
    noise, condition = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), {"label": LABEL}
    found = cls(steps=4, guidance=W).solve(Told(1.0, process), noise, condition)
    expected = cls(steps=4).solve(Told(W + OWN_RULE, process), noise, condition)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, cls(steps=4).solve(Told(1.0, process), noise, condition), atol=1e-2)


def test_the_ways_to_ask_a_guided_network():
    x, t, condition = torch.randn(4, 2), torch.full((4,), 2.0, dtype=torch.float64), {"label": LABEL}
    each = torch.tensor([1.0, 0.0, 2.0, -3.0], dtype=torch.float64)

    def at(effect: float) -> Tensor:
        return Told(effect)(x, t, condition).x0

    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    close(guided(Told(1.0), x, t, condition, W).x0, at(W + OWN_RULE))
    close(guided(Told(1.0), x, t, condition, W).conditional.x0, at(1.0))
    close(guided(Told(1.0), x, t, condition, W).uncond.x0, at(0.0))
    close(guided(Told(1.0), x, t, condition, 0.0).x0, at(0.0))
    close(guided(Told(1.0), x, t, condition, 1.0).x0, at(1.0))
    plain = guided(Told(1.0), x, t, condition, W, lambda cond, uncond, scale: cond.guided(uncond, scale))
    close(plain.x0, at(W))
    close(OnGrid(Told(1.0), torch.ones(2), W)(x, t, condition).x0, at(W + OWN_RULE))
    expected = torch.stack([Told(float(w) + OWN_RULE)(x, t, condition).x0[i] for i, w in enumerate(each)])
    close(Guided(Told(1.0), each)(x, t, condition).x0, expected)


def descent(**rates: float) -> dict[str, Any]:
    return {f"{role}_optimizer": partial(torch.optim.SGD, lr=lr) for role, lr in rates.items()}


ALONE: dict[str, dict[str, Any]] = {
    "AMD": {"strength": 0.0, "sharpening": 0.0},
    "CDM": {"extras": [], "off_weight": 0.0},
    "OneXDistill": {"guided_below": 1.0},
    "GET": {"metric": SquaredError()},  # of absolute errors the gradient knows the sign alone
    **{name: {"extras": []} for name in ("ASD", "DMD", "DPDMD", "FreeFlow", "KDMD", "SenseFlow", "SwD")},
}
"""Settings of methods with which guidance has one way to show: no terms that have a scale of their own or none."""

Way = tuple[str, dict[str, Any], dict[str, Any]]
"""Its name, the arguments with guidance and those with the effect instead."""


def ways(cls: type[Distiller]) -> list[Way]:
    """How a method's training can be guided, found by the types of its arguments."""
    known, found = arguments(cls), []
    kinds = {name: str(parameter.annotation) for name, parameter in known.items()}
    teacher = {"teacher": partial(Told, 1.0)}, {"teacher": partial(Told, W + OWN_RULE)}
    if issubclass(cls, ScoreDistiller):
        teacher = tuple(networks | {"critic": partial(Told, 1.0)} for networks in teacher)
        critic = {"critic": partial(Told, 1.0)}, {"critic": partial(Told, W + OWN_RULE)}
        # A method's other roles stand still, so that guidance has one way to show.
        still, learns = descent(critic=0.0, student=1e-2), descent(critic=1e-2, student=0.0)
        cases = {"teacher": (teacher, still), "critic": (critic, still), "critic_training": (critic, learns)}
        if cls.__name__ in BY_TERMS:
            cases["teacher"] = (({"teacher": partial(Plain, 1.0)}, {"teacher": partial(Plain, W)}), still)
        for field, ((network_1, network_w), rates) in cases.items():
            if field not in ONLY.get(cls.__name__, cases):
                continue
            coupled = {"coupled": True} if issubclass(cls, DecoupledDMD) else {}
            plain = {"guidance": Guidance()} | rates | coupled | ALONE.get(cls.__name__, {})
            found.append((field, plain | network_1 | {"guidance": Guidance(**{field: W})}, plain | network_w))
    if kinds.get("guidance") == "float":
        rates = descent(student=1e-2) | ({} if "discriminator_optimizer" not in known else descent(discriminator=0.0))
        found.append(("guidance", rates | teacher[0] | {"guidance": W}, rates | teacher[1] | {"guidance": 1.0}))
    if kinds.get("guidance") == "TeacherGuidance" and not unguided(cls):
        plain = {"guidance": TeacherGuidance()} | descent(student=1e-2) | ALONE.get(cls.__name__, {})
        oracle = {"transition": TeacherStep()} if "transition" in known else {"velocity": TeacherVelocity()}
        guided = plain | {"guidance": TeacherGuidance(low=W)}
        found.append(("guidance", guided | oracle | teacher[0], plain | oracle | teacher[1]))
    if issubclass(cls, (TrajectoryDistiller, SolverDistiller)) or cls.__name__ in GRADIENT_FREE:
        rates = {} if cls.__name__ in GRADIENT_FREE else descent(student=1e-2) | ALONE.get(cls.__name__, {})
        guided = rates | teacher[0] | {"solver": Heun(steps=3, guidance=W)}
        plain = rates | {"teacher": partial(Told, W + OWN_RULE), "solver": Heun(steps=3)}
        found.append(("solver", guided, plain))
    return found


FORCED = {"BufferedForcing", "StreamDiT", "DiffusionForcing", "TeacherForcing"}


def unguided(cls: type[Distiller]) -> bool:
    alone = {"ADP", "GDD", "IMM", "LADD", "TeacherTraining", "WithoutDistillation", *FORCED}  # ADP: by its pairs
    return cls.__name__ in alone


BY_TERMS = {"AMD", "CDM", "DecoupledDMD", "OneXDistill"}
"""Methods whose guidance is a term of its own: the plain difference, whatever the family's rule."""
ONLY = {"DisBack": {"critic_training"}, "SDXS": {"critic_training"}, "MSD": {"teacher"}}
ONLY |= {name: {"critic", "critic_training"} for name in ("LiveTalk", "MotionStream", "SeverallyGuided")}
"""Ways of methods that compare with copies of the critic, make pairs, or have no null, or scales of their own."""


GUIDED = [cls for cls in METHODS if cls.__name__ != "WaDi"]
"""WaDi is SwiftBrush on adapters alone, which need a network with layers."""
CASES = [(cls, way) for cls in GUIDED if cls.__module__.startswith("fastgen.") for way in ways(cls)]


def test_every_method_can_be_guided_in_training():
    assert {cls for cls, _ in CASES} == {c for c in GUIDED if c.__module__.startswith("fastgen.") and not unguided(c)}


def trained(method: Distiller, batches: int) -> Tensor:
    fit(method, batches)
    return torch.cat([p.detach().flatten().double() for ps in method.trained_parameters.values() for p in ps])


@pytest.mark.parametrize(("cls", "way"), CASES, ids=[f"{cls.__name__}-{way[0]}" for cls, way in CASES])
def test_training(cls: type[Distiller], way: Way):
    """Guided training is training with a teacher (or critic) whose condition has that effect."""
    _, guided, plain = way
    count = iterations(cls)
    found, expected = trained(make(cls, **guided), count), trained(make(cls, **plain), count)
    start = make(cls, **guided)
    start.configure_model()
    before = torch.cat([p.detach().flatten().double() for ps in start.trained_parameters.values() for p in ps])
    moved = (expected - before).norm()
    assert moved > 0 and (found - expected).norm() < 1e-4 * moved
    # and not what it would be without
    changes = {key: value for key, value in plain.items() if guided[key] is value}
    bare = changes | {key: guided[key] for key in guided if key in ("teacher", "critic")}
    bare |= {key: plain[key] for key in plain if key in ("guidance", "solver")}
    assert (found - trained(make(cls, **bare), count)).norm() > 1e-3 * moved


@pytest.mark.parametrize("field", ["teacher", "critic", "critic_training"])
def test_a_score_term_beside_another_method(field: str):
    def run(effect: float, guidance: Guidance) -> Tensor:
        critic = partial(Told, 1.0 if field == "teacher" else effect)
        rates = (1e-2, 0.0) if field == "critic_training" else (0.0, 1e-2)
        term = DistributionMatching(
            critic=critic, critic_updates=1, critic_optimizer=partial(torch.optim.SGD, lr=rates[0]), guidance=guidance
        )
        teacher = partial(Told, effect if field == "teacher" else 1.0)
        method = make(SCM, teacher=teacher, extras=[term], **descent(student=rates[1]))
        # sCM's own loss asks the teacher too: here it does not count.
        method.student_loss = lambda part: {}  # type: ignore[method-assign]
        return trained(method, 2)

    found, expected = run(1.0, Guidance(**{field: W})), run(W + OWN_RULE, Guidance())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found - run(1.0, Guidance())).norm() > 1e-4


@pytest.mark.parametrize("cls", GUIDED, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("solver", [Euler, Heun])
def test_samples_of_the_teacher(cls: type[Distiller], solver: type[Solver]):
    if cls.__name__ == "TeacherTraining":
        return
    ends = []
    for effect, guidance in ((1.0, W), (W + OWN_RULE, 1.0)):
        networks = {name: partial(Told, effect) for name in ("teacher", "critic") if name in arguments(cls)}
        method = make(cls, solver=solver(steps=3, guidance=guidance), **networks, **ALONE.get(cls.__name__, {}))
        method.configure_model()
        ends.append(method.sample([1, 2, 3, 4], {"label": LABEL}, role="teacher"))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["TeacherTraining", "OptimalSteps"])
def test_samples_of_students_that_are_guided(name: str):
    """A teacher in training is sampled with its solver, an optimal grid with the teacher's guidance."""
    (cls,) = (cls for cls in METHODS if cls.__name__ == name)
    ends = []
    for effect, guidance in ((1.0, W), (W + OWN_RULE, 1.0)):
        networks = {"student" if name == "TeacherTraining" else "teacher": partial(Told, effect)}
        method = make(cls, solver=Heun(steps=3, guidance=guidance), **networks)
        method.configure_model()
        ends.append(method.sample([1, 2, 3, 4], {"label": LABEL}, role="student"))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


MAPS = [cls for cls in METHODS if issubclass(cls, FlowMapDistiller)]


@pytest.mark.parametrize("cls", MAPS, ids=lambda cls: cls.__name__)
def test_an_embedded_student_is_told_the_scale(cls: type[Distiller]):
    """In training each sample's own draw, in sampling the one that was chosen or the middle."""
    for sampling, expected in (("middle", 4.0), (3.0, 3.0)):
        method = make(cls, guidance=TeacherGuidance(low=2.0, high=6.0, embedded=True, sampling=sampling))
        method.configure_model()
        told: list[Tensor] = []
        method.student.register_forward_pre_hook(lambda _, args, told=told: told.append(args[2]["guidance"]))
        fit(method, 1, batch_size=48)
        scales = torch.cat(told)
        assert bool(((scales >= 2.0) & (scales <= 6.0)).all()) and 3.0 < scales.mean() < 5.0 and scales.std() > 0.5
        told.clear()
        method.sample([1, 2], {"label": LABEL[:2]})
        assert told and all(torch.equal(seen, torch.full_like(seen, expected)) for seen in told)


OWN_GUIDES = {"IMF": {"guidance": TeacherGuidance()}, "AnyFlow": {"fused_guidance": 1.0}, "FreeFlow": {"extras": []}}
"""What keeps a student from being asked without a condition as its own guide, or for samples of another term."""


def dropping(cls: type[Distiller], share: float) -> dict[str, Any]:
    known = arguments(cls)
    if "condition_dropout" in known:
        return {"condition_dropout": share} | OWN_GUIDES.get(cls.__name__, {})
    if issubclass(cls, ScoreDistiller):
        return {"guidance": Guidance(condition_dropout=share)}
    return {}


# The critics of Phased DMD and MSD are several networks; a score term of sCM's samples from the student too.
KEEPING = ("MSD", "PhasedDMD", "RegularisedSCM", "SiDA", "UniInstruct")
"""Methods with several critics, or whose discriminator is in the critic and keeps the condition."""
DROPPING = [cls for cls in METHODS if dropping(cls, 0.0) and cls.__name__ not in KEEPING]


def labels_in_training(cls: type[Distiller], role: str, **kwargs: Any) -> Tensor:
    method, seen = make(cls, **kwargs), []
    method.configure_model()
    original: Callable[..., Any] = method.losses

    def losses(turn: str, part: Any) -> dict[str, Tensor]:
        noted: list[Tensor] = []
        modules = [getattr(method, role)]
        handles = [m.register_forward_pre_hook(lambda _, args: noted.append(args[2]["label"])) for m in modules]
        result = original(turn, part)
        for handle in handles:
            handle.remove()
        if turn == role:
            seen.extend(noted)
        return result

    method.losses = losses  # type: ignore[method-assign]
    fit(method, 3, batch_size=48)
    return torch.cat(seen)


@pytest.mark.parametrize("cls", DROPPING, ids=lambda cls: cls.__name__)
def test_conditions_are_dropped_as_often_as_asked(cls: type[Distiller]):
    """The student of a flow map, the teacher in training, the critic of a score method."""
    role = "critic" if issubclass(cls, ScoreDistiller) else "student"
    for share, low, high in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.08, 0.33)):
        labels = labels_in_training(cls, role, **dropping(cls, share))
        assert low <= (labels == CLASSES).double().mean() <= high, (share, labels.tolist())
