"""The score term: its gradient beside another method's, its critic, and where its samples come from (fp64)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import CLASSES, StopAfter, ToyData, build, network, trainer

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser, LoRA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras import DistributionMatching, Extra, Reward, RewardModel
from fastgen.methods import DMD2, LCM, SCM, DiffInstruct, Distiller, MeanFlow
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.objectives.flow_maps import normalised
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import EDMWeight
from fastgen.processes import EDM, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import AnytimeSampler, RenoiseSampler
from fastgen.times import FlowTime, LogNormalLevel, ToData

LABEL = torch.arange(6) % CLASSES
LAWS: dict[str, Any] = {
    "renoise_time": FlowTime(shift=5.0),
    "critic_time": LogNormalLevel(-0.5, 1.0),
    "critic_objective": DenoisingLoss(weight=EDMWeight(1.0)),
    "guidance": Guidance(teacher=2.5, condition_dropout=0.5),
}
SAMPLER = RenoiseSampler([5.0, 0.8])
pytestmark = pytest.mark.filterwarnings("ignore")


def double(seed: int, **kwargs: Any) -> Denoiser:
    return network(seed, **kwargs).double()


def part(step: int = 0, scope: str = "train") -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), scope, step=step), raw_condition={"label": LABEL})


def made(cls: type[Distiller], *extras: Extra, **kwargs: Any) -> Any:
    """Teacher, student and critic of fixed weights, in fp64."""
    factories = {"teacher": partial(double, 0), "student": partial(double, 1)}
    method = cls(**(factories | {"extras": list(extras)} | kwargs))
    method.configure_model()
    return method


def term(**kwargs: Any) -> DistributionMatching:
    return DistributionMatching(**({"critic": partial(double, 2), "sampler": SAMPLER} | LAWS | kwargs))


def scm(*extras: Extra, **kwargs: Any) -> SCM:
    return made(
        SCM, *extras, **{"times": ToData(LogNormalLevel(0.0, 0.7)), "warmup": 0, "learned_weight": False} | kwargs
    )


def dmd(**kwargs: Any) -> DMD2:
    settings = {"critic": partial(double, 2), "sampler": SAMPLER, "schedule": UpdateSchedule()}
    return made(DMD2, **settings | LAWS | kwargs)


def gradient(method: Distiller, role: str, piece: MicroBatch) -> Tensor:
    """The gradient of a role's whole loss, (parameters,)."""
    with method.only(role):
        loss = torch.stack([value.double() for value in method.losses(role, piece).values()]).sum()
        found = torch.autograd.grad(loss, method.trained_parameters[role], allow_unused=True)
    kept = zip(found, method.trained_parameters[role], strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in kept])


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("weight", [0.02, 1.7])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_gradients_add_up(weight: float, step: int):
    """That of sCM plus weight times that of DMD, on samples of one and of two calls."""
    alone, composed = gradient(scm(), "student", part(step)), gradient(scm(term(weight=weight)), "student", part(step))
    matching = gradient(dmd(), "student", part(step))
    assert relative(composed, alone + weight * matching) < 1e-12
    assert relative(composed, alone) > 1e-3 and relative(composed, weight * matching) > 1e-3


def test_the_critic_learns_as_that_of_dmd():
    """Its loss does not depend on the weight; dropped conditions are dropped for its samples too."""
    one = gradient(scm(term(weight=0.3)), "critic", part())
    assert relative(one, gradient(dmd(), "critic", part())) < 1e-12


def test_the_weight_of_edm_is_that_of_rcm():
    """1 / sin^2 t at equal level, for sigma_data = 1."""
    trig, t = TrigFlow(1.0), torch.tensor([0.2, 0.9, 1.4], dtype=torch.float64)
    x, x0, noise = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prediction = double(3, process=trig)(x, t, {"label": LABEL[:3]})
    expected = ((prediction.x0 - x0).square() / torch.sin(t)[:, None].square()).mean()
    torch.testing.assert_close(
        DenoisingLoss(weight=EDMWeight(1.0))(prediction, x0, noise), expected, rtol=1e-12, atol=0.0
    )


def test_the_loss_of_rcm():
    """``100 sum |F - target|^2 + sum |x - target|^2`` per sample, over 100 times the number of elements."""
    method, piece = scm(term(weight=0.02)), part()
    total = sum(method.losses("student", piece).values())
    tangent = normalised(method.field_and_tangent(method.state(piece))[1], 0.1)
    inputs = piece.score_inputs["critic"]
    x, x_t, t = inputs.rollout.x0, inputs.x_t, inputs.t
    label, null = {"label": LABEL}, {"label": torch.full_like(LABEL, CLASSES)}
    uncond = method.teacher(x_t, t, null).x0
    real = uncond + 2.5 * (method.teacher(x_t, t, label).x0 - uncond)
    step = (method.extras[0].critic(x_t, t, label).x0 - real) / (x - real).abs().mean(1, keepdim=True)
    expected = (100.0 * tangent.square() + step.square()).sum(1).mean()
    torch.testing.assert_close(200.0 * total, expected, rtol=1e-9, atol=0.0)


# ---------------------------------------------------------------------- roles and turns


def test_the_critic_has_iterations_of_its_own():
    method = made(SCM, term(critic_updates=4, start=3))
    assert method.roles() == ("student", "critic")
    assert [method.all_turns(i) for i in range(7)] == [("student",)] * 7, "the term waits for student updates"
    seen, original = [], method.update
    method.update = lambda role, parts: (seen.append((method.iteration, role)), original(role, parts))
    trainer(16).fit(method, ToyData(batch_size=4))
    assert seen[:3] == [(0, "student"), (1, "student"), (2, "student")]
    assert seen[3:] == [(i, "critic" if i % 5 else "student") for i in range(3, 16)]


def test_it_begins_as_the_teacher_or_an_adapter_on_it(tmp_path):
    plain = made(SCM, DistributionMatching())
    for mine, theirs in zip(plain.extras[0].critic.parameters(), plain.teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.requires_grad and not theirs.requires_grad
    path = str(tmp_path / "end.ckpt")
    shared = build(SCM, extras=[DistributionMatching(critic=LoRA(rank=2))])
    trainer(2, StopAfter(2, 2, path)).fit(shared, ToyData(batch_size=4))
    critic = shared.extras[0].critic
    assert isinstance(critic, AdaptedDenoiser) and critic.base is shared.teacher
    names = [name for name in torch.load(path, weights_only=True)["state_dict"] if name.startswith("critic.")]
    assert names and all(name.startswith("critic.changes.") for name in names)


def test_resuming_changes_no_bit(tmp_path):
    """The critic and its optimizer come back, also between two of its iterations."""
    path, ends = str(tmp_path / "half.ckpt"), []
    for ckpt_path in (None, path):
        method = build(SCM, extras=[DistributionMatching(critic_updates=3, start=1)])
        run = trainer(12, StopAfter(12, 7, None if ckpt_path else path))
        run.fit(method, ToyData(batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        ends.append((dict(method.state_dict()), [o.state_dict()["state"] for o in run.optimizers]))
    (one, first), (other, second) = ends
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    for states in zip(first, second, strict=True):
        assert len(states[0]) > 3
        for key, value in states[0].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(states[1][key][n])) for n, v in value.items())
    saved = torch.load(path, weights_only=True)["state_dict"]
    changed = [name for name in saved if name.startswith("critic.") and not torch.equal(saved[name], one[name])]
    assert changed, "the critic learns after the checkpoint too"


def test_where_it_does_not_fit_it_says_so():
    with pytest.raises(UserError, match="bring the role 'critic'"):
        build(DiffInstruct, extras=[DistributionMatching()]).configure_model()
    with pytest.raises(UserError, match="compares with a teacher"):
        MeanFlow(student=partial(network, 0), extras=[DistributionMatching()]).configure_model()
    with pytest.raises(UserError, match="critic_updates"):
        DistributionMatching(critic_updates=0)


# ---------------------------------------------------------------------- the students of other methods


def test_networks_of_another_process_are_seen_on_the_student_s():
    """A teacher on a flow, a student on EDM: gradients are those of the same networks on EDM."""

    class Same(Denoiser):
        """The denoiser of N(0, 1), which is the same function on every process."""

        def predict(self, x_t: Tensor, t: Tensor, condition: Any, s: Tensor | None = None) -> Tensor:
            alpha, sigma = (c[:, None] for c in self.process.coefficients(t))
            return alpha * x_t / (alpha.square() + sigma.square())

    found = []
    for process in (EDM(), RectifiedFlow()):
        method = scm(term(sampler=None, guidance=Guidance()), teacher=partial(Same, process, "x0", (2,)))
        found.append(gradient(method, "student", part()))
    assert relative(*found) < 1e-9


def test_a_student_with_a_second_time_is_told_where_it_jumps():
    method = made(MeanFlow, term(sampler=RenoiseSampler([5.0, 0.8])))
    asked: list[tuple[Any, ...]] = []
    method.student.register_forward_pre_hook(lambda _, args: asked.append(args))
    method.extras[0].losses(method, "student", part())
    assert asked and all(bool((args[3] == 0.0).all()) for args in asked)


def test_an_embedded_guidance_is_told_to_the_student_alone():
    method = made(LCM, term(), guidance=TeacherGuidance(2.0, 6.0, embedded=True, sampling=3.0), student=CopyOfTeacher())
    seen: dict[str, list[Any]] = {"student": [], "critic": []}
    for name, net in (("student", method.student), ("critic", method.extras[0].critic)):
        net.register_forward_pre_hook(lambda _, args, n=name: seen[n].append(args[2].get("guidance")))
    for role in seen:
        method.extras[0].losses(method, role, part())
    assert seen["critic"] == [None] * 2 and all(scale.tolist() == [3.0] * 6 for scale in seen["student"])


class Left(RewardModel):
    """Smaller first coordinates."""

    def forward(self, samples: Tensor, condition: Any) -> Tensor:
        return -samples[:, 0]


def test_other_extras_judge_its_samples():
    """A reward on a consistency model: of the samples that this term compares, whoever stands first."""
    pieces, orders = [part(), part()], ([term(), Reward(Left, weight=0.5)], [Reward(Left, weight=0.5), term()])
    found = [scm(*extras).losses("student", piece) for piece, extras in zip(pieces, orders, strict=True)]
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    method, losses, piece = scm(), found[0], pieces[0]
    assert piece.rollouts["student"] is piece.score_inputs["critic"].rollout
    seen = method.codec.decode(piece.rollouts["student"].x0)
    torch.testing.assert_close(losses["reward"], 0.5 * seen[:, 0].mean().float())


def test_anytime_rollouts_match_by_hand():
    """Up to four calls at decreasing times, each on fresh noise; the number is shared, the times are not."""
    sampler, student, counts = AnytimeSampler(FlowTime(shift=5.0), level=20.0, steps=4), double(1), set()
    for step in range(16):
        draws, asked = Draws(1, range(6), "test", step=step), []
        handle = student.register_forward_pre_hook(lambda _, args, asked=asked: asked.append(args))
        rollout = sampler.rollout(student, draws, {"label": LABEL}, torch.float64)
        handle.remove()
        counts.add(len(asked))
        assert rollout.step == len(asked) - 1 and bool((rollout.t_anchor == 0).all())
        x, t = EDM().start(draws.normal("noise", (2,), torch.float64), asked[0][1]), torch.full((6,), 20.0).double()
        for i, (x_t, at, *_) in enumerate(asked):
            if i:
                x0 = student(x, t, {"label": LABEL}).x0
                t = torch.minimum(t, FlowTime(shift=5.0).sample(draws.scoped(f"call{i}"), EDM()))
                x = x0 + t[:, None] * draws.normal(f"noise{i}", (2,), torch.float64)
            torch.testing.assert_close(x_t, x, rtol=1e-12, atol=1e-12)
            assert torch.equal(at, t)
        assert torch.equal(rollout.t, t) and rollout.x0.requires_grad
        assert torch.equal(rollout.x0, student(x, t, {"label": LABEL}).x0)
    assert counts == {1, 2, 3, 4} and len(t.unique()) > 1
