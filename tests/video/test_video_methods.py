"""Methods of causal students, by hand in fp64, and what they are when there is one chunk."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from every_method import fit
from torch import Tensor
from toys import FreeData, build, clip_network, trainer
from video.test_causal import dense

from fastgen.conditions import Guidance
from fastgen.denoisers import ClipTransformer, LinearGaussianClips
from fastgen.denoisers.causal.base import block_mask, chunks_of
from fastgen.denoisers.causal.caches import FullCache
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods import (
    DMD2,
    LCM,
    CausalConsistency,
    CausVid,
    DiffusionForcing,
    ODEInitialisation,
    SelfForcing,
    TeacherForcing,
    TeacherTraining,
)
from fastgen.objectives.score_forms import SiDForm
from fastgen.objectives.score_matching import BellWeight, DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.clips.inputs import solver_states, streamed_states
from fastgen.sampling.samplers import ChunkSampler, RenoiseSampler
from fastgen.sampling.solvers import Euler, Heun
from fastgen.times import ClampedTime, FlowTime, UniformTime

pytestmark = pytest.mark.filterwarnings("ignore")
FLOW, FRAMES = RectifiedFlow(), 5


def student(chunk: int = 2, **options: Any) -> ClipTransformer:
    made = ClipTransformer(FLOW, FRAMES, 2, width=16, depth=2, heads=2, num_classes=2, chunk=chunk, **options)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return made.double()


def law(**options: Any) -> LinearGaussianClips:
    return LinearGaussianClips(FLOW, FRAMES, 2, num_classes=2, **options)


def batch(size: int = 4) -> MicroBatch:
    label = torch.arange(size) % 2
    x0 = law().sample(size, torch.Generator().manual_seed(2), label, torch.float64)
    return MicroBatch(x0, {"label": label}, Draws(0, list(range(size)), "train", step=3))


def built(cls: Any, **options: Any) -> Any:
    given = {"teacher": law, "student": student, **options}
    if issubclass(cls, DMD2):
        given = {"critic": partial(law, std=0.7), "guidance": Guidance(), **given}
    method = cls(**given)
    method.configure_model()
    return method


def gradients(loss: Tensor, module: torch.nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in module.parameters()], allow_unused=True, retain_graph=True))


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    known = [(a, b) for a, b in zip(one, other, strict=True) if a is not None or b is not None]
    assert len(known) > 10 and max(float(a.abs().max()) for a, _ in known) > 1e-5
    for a, b in known:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- Self Forcing


def test_self_forcing_by_hand():
    """The exact gradient of both networks' scores at the whole clip, carried into the last call of each chunk."""
    method, part = built(SelfForcing, sampler=ChunkSampler([1.0, 0.6])), batch()
    found = method.student_loss(part)["match"]
    x = method.sampler.rollout(method.student, part.draws.scoped("student/rollout"), part.condition, torch.float64).x0
    draws = part.draws.scoped("student/renoise")
    u = 0.999 * draws.uniform("time")
    t = (5 * u / (1 + 4 * u)).clamp(0.02, 0.98)
    noise = draws.normal("noise", (FRAMES, 2), torch.float64)
    x_t = (1 - t)[:, None, None] * x.detach() + t[:, None, None] * noise
    every = torch.ones(FRAMES, FRAMES, dtype=torch.bool)
    times = t[:, None].expand(-1, FRAMES)
    real, fake = (
        dense(network, x_t, times, every, network.mean_of(part.condition, FRAMES, x_t))
        for network in (law(), law(std=0.7))
    )
    g = (fake - real) / (x.detach() - real).abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(found, 0.5 * g.square().mean())
    assert_same(gradients(found, method.student), gradients((g * x).sum() / x.numel(), method.student))


def test_the_critic_learns_velocities_of_the_students_clips():
    method, part = built(SelfForcing, sampler=ChunkSampler([1.0, 0.6]), critic=partial(student, 0)), batch()
    found = method.critic_loss(part)["denoising"]
    x = method.sampler.rollout(method.student, part.draws.scoped("critic/rollout"), part.condition, torch.float64).x0
    draws = part.draws.scoped("critic")
    u = 0.999 * draws.uniform("time")
    t = (5 * u / (1 + 4 * u)).clamp(0.02, 0.98)
    noise = draws.normal("noise", (FRAMES, 2), torch.float64)
    x_t = (1 - t)[:, None, None] * x.detach() + t[:, None, None] * noise
    hand = (method.critic(x_t, t, part.condition).velocity - (noise - x.detach())).square().mean()
    torch.testing.assert_close(found, hand)
    assert_same(gradients(found, method.critic), gradients(hand, method.critic))


def test_one_chunk_and_nothing_forgotten_is_few_step_dmd2_bit_for_bit():
    ends = []
    for cls, sampler in ((SelfForcing, ChunkSampler([20.0, 2.0])), (DMD2, RenoiseSampler([20.0, 2.0]))):
        options: dict[str, Any] = {
            "student": partial(clip_network, 3, 0),
            "sampler": sampler,
            "renoise_time": UniformTime(),
            "critic_time": UniformTime(),
            "critic_objective": DenoisingLoss(),
            "guidance": Guidance(teacher=2.0),
            "schedule": UpdateSchedule(critic_updates=2, critic_first=False),
            "gradient_clip": 1.0,
            **{f"{role}_optimizer": partial(torch.optim.Adam, lr=1e-2) for role in ("student", "critic")},
        }
        method = build(cls, **options)
        fit(method, 6)
        ends.append(method.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_papers_sid_and_gan_train_too():
    for options in ({"form": SiDForm(alpha=1.0)}, {}):
        method = build(SelfForcing, student=partial(clip_network, 3), sampler=ChunkSampler([20.0, 2.0]), **options)
        assert fit(method, 5)["student/grad_norm"] > 0


def test_a_sampler_without_chunks_is_refused():
    with pytest.raises(UserError, match="sampler must be a ChunkSampler"):
        build(SelfForcing, sampler=RenoiseSampler())


# ---------------------------------------------------------------------- CausVid


def test_causvid_is_called_at_noised_real_clips_chunk_by_chunk():
    """With the exact causal law for a student: what it says of clips that are noised by hand."""
    method, part = built(CausVid, sampler=ChunkSampler([1.0, 0.6])), batch(6)
    method.student = law(chunk=2)
    method.noise_dtype = lambda: torch.float64
    found = method.make_rollout(part, "student", part.condition)
    draws = part.draws.scoped("student/rollout")
    steps = torch.stack([draws.scoped(f"chunk{i}").integers("step", 3) for i in range(3)], 1)
    assert {0, 1, 2} <= set(steps.flatten().tolist())
    steps = steps[:, torch.tensor([0, 0, 1, 1, 2])]
    t = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)[steps]
    noise = draws.normal("noise", (FRAMES, 2), torch.float64)
    x_t = (1 - t)[:, :, None] * part.x0 + t[:, :, None] * noise
    mean = method.student.mean_of(part.condition, FRAMES, x_t)
    hand = dense(method.student, x_t, t, block_mask(chunks_of(FRAMES, 2), FullCache()), mean)
    torch.testing.assert_close(found.x0, hand)
    clean = (steps == 2)[:, :, None].expand_as(hand)
    torch.testing.assert_close(found.x0[clean], part.x0[clean])
    assert torch.equal(found.t, t.amax(1)) and torch.equal(found.t_anchor, torch.zeros(6).double())
    none = built(CausVid, sampler=ChunkSampler([1.0, 0.6]), clean_frames=False)
    assert float(none.make_rollout(part, "student", part.condition).t.min()) >= 0.6


def test_causvid_by_hand():
    method, part = built(CausVid, sampler=ChunkSampler([1.0, 0.6])), batch()
    found = method.student_loss(part)["match"]
    x = method.make_rollout(batch(), "student", part.condition).x0
    draws = part.draws.scoped("student/renoise")
    u = 0.999 * draws.uniform("time")
    t = (8 * u / (1 + 7 * u)).clamp(0.02, 0.98)
    x_t = (1 - t)[:, None, None] * x.detach() + t[:, None, None] * draws.normal("noise", (FRAMES, 2), torch.float64)
    real, fake = (network(x_t, t, part.condition).x0 for network in (law(), law(std=0.7)))
    g = (fake - real) / (x.detach() - real).abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(found, 0.5 * g.square().mean())
    assert_same(gradients(found, method.student), gradients((g * x).sum() / x.numel(), method.student))


# ---------------------------------------------------------------------- initialisation by the flow


def flow_of(covariance: Tensor, mean: Tensor, noise: Tensor, t: float) -> Tensor:
    """Where the flow of N(mean, covariance) takes standard normal noise (B, D): a linear map of each principal axis."""
    values, axes = torch.linalg.eigh(covariance)
    return (1 - t) * mean + noise @ (axes * ((1 - t) ** 2 * values + t**2).sqrt()) @ axes.T


def test_states_lie_on_the_flow():
    network, part = law(), batch()
    noise = part.draws.normal("pair", (FRAMES, 2), torch.float64)
    states = solver_states(Heun(steps=150), network, noise, part.condition, [1.0, 0.6, 0.3])
    mean = network.mean_of(part.condition, FRAMES, noise).flatten(1)
    for state, t in zip(states, (1.0, 0.6, 0.3, 0.0), strict=True):
        torch.testing.assert_close(
            state.flatten(1), flow_of(network.covariance, mean, noise.flatten(1), t), rtol=2e-3, atol=2e-3
        )


def test_states_of_a_causal_teacher_lie_on_the_flows_of_chunks_given_those_before():
    network, part = law(chunk=2), batch()
    noise = part.draws.normal("pair", (FRAMES, 2), torch.float64)
    times = [1.0, 0.6]
    states = streamed_states(Heun(steps=150), network, noise, part.condition, times, FullCache())
    mean, covariance = network.mean_of(part.condition, FRAMES, noise).flatten(1), network.covariance
    first, second = slice(0, 4), slice(4, 8)
    gain = covariance[second, first] @ torch.linalg.inv(covariance[first, first])
    given = mean[:, second] + (states[-1].flatten(1)[:, first] - mean[:, first]) @ gain.T
    rest = covariance[second, second] - gain @ covariance[first, second]
    for state, t in zip(states, (*times, 0.0), strict=True):
        at = flow_of(rest, given, noise.flatten(1)[:, second], t)
        torch.testing.assert_close(state.flatten(1)[:, second], at, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("states", ["bidirectional", "autoregressive"])
@pytest.mark.parametrize("clean", [True, False])
def test_ode_initialisation_by_hand(states: Any, clean: bool):
    teacher = partial(law, chunk=2 if states == "autoregressive" else 0)
    sampler, solver = ChunkSampler([1.0, 0.6]), Euler(steps=4)
    method = built(
        ODEInitialisation, teacher=teacher, sampler=sampler, solver=solver, states=states, clean_frames=clean
    )
    part = batch(6)
    found = method.student_loss(part)["regression"]
    noise = part.draws.normal("pair", (FRAMES, 2), torch.float64)
    if clean:
        path = [s.clone() for s in method.path(noise, part.condition)]
    else:  # Euler's four steps with the time 0.6 among them
        path, x, grid = [noise], noise, [1.0, 0.75, 0.6, 0.5, 0.25, 0.0]
        if states == "bidirectional":
            for t, s in pairwise(grid):
                x = x + (s - t) * method.teacher(x, torch.full((6,), t, dtype=torch.float64), part.condition).velocity
                path += [x] if s in (0.6, 0.0) else []
        else:
            path = method.path(noise, part.condition)
    draws = part.draws.scoped("student")
    steps = torch.stack([draws.scoped(f"chunk{i}").integers("step", 2 + clean) for i in range(3)], 1)
    steps = steps[:, torch.tensor([0, 0, 1, 1, 2])]
    x_t = torch.stack([torch.stack([path[int(k)][b, f] for f, k in enumerate(row)]) for b, row in enumerate(steps)])
    t = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)[steps]
    told = part.condition | ({"clean": path[-1]} if states == "autoregressive" else {})
    error = (method.student(x_t, t, told).x0 - path[-1]).square() * (steps < 2)[:, :, None]
    hand = error.mean() * (1.5 if clean else 1.0)
    torch.testing.assert_close(found, hand)
    assert_same(gradients(found, method.student), gradients(hand, method.student))


# ---------------------------------------------------------------------- forcing


@pytest.mark.parametrize("cls", [DiffusionForcing, TeacherForcing])
def test_forcing_by_hand(cls: Any):
    method, part = built(cls, teacher=None, condition_dropout=0.0), batch()
    if cls is TeacherForcing:
        part.condition = {**part.condition, "clean": method.context(part)}
        assert torch.equal(part.condition["clean"], part.x0)
    found = method.student_loss(part)["denoising"]
    draws = part.draws.scoped("student")
    u = torch.stack([0.001 + 0.999 * draws.scoped(f"chunk{i}").uniform("time") for i in range(3)], 1)
    assert float((u[:, 0] - u[:, 1]).abs().min()) > 1e-3
    t = (5 * u / (1 + 4 * u))[:, torch.tensor([0, 0, 1, 1, 2])]
    noise = draws.normal("noise", (FRAMES, 2), torch.float64)
    x_t = (1 - t)[:, :, None] * part.x0 + t[:, :, None] * noise
    grid = torch.arange(1, 1001).double() / 1000
    bell = lambda s: torch.exp(-2 * (s - 0.5) ** 2) - torch.exp(torch.tensor(-0.5).double())  # noqa: E731
    weight = bell(t) / bell(5 * grid / (1 + 4 * grid)).mean()
    error = method.student(x_t, t, part.condition).velocity - (noise - part.x0)
    hand = (weight[:, :, None] * error.square()).mean()
    torch.testing.assert_close(found, hand, rtol=1e-6, atol=1e-9)
    one, other = gradients(found, method.student), gradients(hand, method.student)
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


def test_diffusion_forcing_of_one_chunk_is_the_training_of_a_teacher_bit_for_bit():
    ends = []
    for cls in (DiffusionForcing, TeacherTraining):
        method = build(
            cls, student=partial(clip_network, 3, 0), objective=DenoisingLoss(), time=UniformTime(0.1, 0.9),
            student_optimizer=partial(torch.optim.Adam, lr=1e-2),
        )  # fmt: skip
        fit(method, 3)
        ends.append(method.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_noise_on_the_context():
    method, part = built(TeacherForcing, teacher=None, context_noise=0.1), batch(2000)
    added = method.context(part) - part.x0
    assert float(added.std()) == pytest.approx(0.1, rel=0.02)
    with pytest.raises(UserError, match="lets chunks see real clips"):
        trainer(1).fit(build(TeacherForcing, student=partial(clip_network, 3)), FreeData(batch_size=4))


def test_the_bell_by_hand():
    grid = torch.arange(1, 1001).double() / 1000
    shifted = 5 * grid / (1 + 4 * grid)
    weight = BellWeight()(shifted / (1 - shifted).clamp(min=0.0))
    assert float(weight.mean()) == pytest.approx(1.0, rel=1e-12) and float(weight[-1]) == 0.0
    half, quarter = BellWeight()(torch.tensor([1.0, 1 / 3]).double())
    assert float(half / quarter) == pytest.approx((1 - 0.60653066) / (0.88249690 - 0.60653066), rel=1e-6)


def test_draws_beyond_the_bounds_lie_on_them():
    draws = Draws(0, list(range(20000)))
    t = ClampedTime().sample(draws, FLOW)
    free = FlowTime(0.0, 0.999, 5.0).sample(draws, FLOW)
    assert torch.equal(t, free.clamp(0.02, 0.98))
    assert float((t == 0.98).double().mean()) == pytest.approx(0.0917, abs=0.01)
    assert float(ClampedTime().sample(draws, EDM()).max()) < 80.0


# ---------------------------------------------------------------------- consistency


def consistent(cls: Any, chunk: int, **options: Any) -> Any:
    from fastgen.methods.flow_maps.guidance import TeacherGuidance

    return built(
        cls, teacher=partial(law, chunk=chunk), student=partial(student, chunk), guidance=TeacherGuidance(), **options
    )


def test_causal_consistency_by_hand():
    method, part = consistent(CausalConsistency, 2), batch()
    part.condition = {**part.condition, "clean": method.context(part)}
    found = method.student_loss(part)
    ((name, value),) = found.items()
    assert name == "consistency"
    calls: list[tuple[Tensor, Tensor]] = []
    original = method.student.predict

    def predict(x_t: Tensor, t: Tensor, condition: Any, s: Tensor | None = None) -> Tensor:
        assert torch.equal(condition["clean"], part.x0)
        calls.append((x_t, t))
        return original(x_t, t, condition, s)

    method.student.predict = predict
    again = method.student_loss(part)["consistency"]
    torch.testing.assert_close(again, value)
    del method.student.predict
    x_t, t = calls[-1]
    grid = torch.tensor([i / 48 for i in range(49)], dtype=torch.float64)
    assert all(float((grid - time).abs().min()) < 1e-12 for time in t)
    r = t - 1 / 48
    x_r = x_t + (r - t)[:, None, None] * method.teacher(x_t, t, part.condition).velocity
    ahead = torch.where(r > 1e-9, r, t)
    target = torch.where((r > 1e-9)[:, None, None], method.student(x_r, ahead, part.condition).x0, x_r).detach()
    hand = (method.student(x_t, t, part.condition).x0 - target).square().mean()
    torch.testing.assert_close(value, hand, rtol=1e-5, atol=1e-7)  # the average of the student is kept in fp32


def test_one_chunk_is_lcm():
    values = []
    for cls in (CausalConsistency, LCM):
        method, part = consistent(cls, 0), batch()
        if cls is CausalConsistency:
            part.condition = {**part.condition, "clean": method.context(part)}
        else:
            method = consistent(
                LCM, 0, **{k: getattr(values[0][1], k) for k in ("times", "metric", "target", "sampler")}
            )
        values.append((method.student_loss(part)["consistency"], method))
    torch.testing.assert_close(values[0][0], values[1][0], rtol=1e-6, atol=1e-9)
    one, other = (gradients(loss, method.student) for loss, method in values)
    for a, b in zip(one, other, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)
    assert UniformWeight() == values[0][1].weight
