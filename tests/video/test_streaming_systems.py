"""Systems on top of Self Forcing: weights, scales, defects and plans by hand, and what each is without its own part."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from every_method import ToTheRight, fit
from torch import Tensor
from toys import build, clip_network
from video.test_video_methods import FLOW, FRAMES, assert_same, batch, built, gradients, law, student

from fastgen.conditions import Guidance
from fastgen.data import DrivenClips
from fastgen.denoisers import ClipTransformer, LinearGaussianClips
from fastgen.denoisers.causal.caches import EMASink, FullCache, NoisyCache, WindowCache
from fastgen.denoisers.causal.driven import without
from fastgen.denoisers.wrappers.guided import guided
from fastgen.denoisers.wrappers.several_conditions import JointScales, NestedScales
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras import SemigroupDefect
from fastgen.extras.reward import MotionEnergy
from fastgen.methods import VDOT, LiveAvatar, LiveTalk, MatrixGame, MotionStream, RewardForcing, Salt, SelfForcing
from fastgen.objectives.few_step_forms import TransportForm, transport_plan
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.clips.streams import Stream
from fastgen.sampling.samplers import ChunkSampler, MixedChunkSampler

pytestmark = pytest.mark.filterwarnings("ignore")


def ends(*methods: tuple[Any, dict[str, Any]]) -> list[dict[str, Tensor]]:
    """The weights of methods after a few updates of the toys from equal beginnings."""
    found = []
    for cls, options in methods:
        common: dict[str, Any] = {
            "student": partial(clip_network, 3),
            "guidance": Guidance(),
            "schedule": UpdateSchedule(critic_updates=2, critic_first=False),
            **{f"{role}_optimizer": partial(torch.optim.Adam, lr=1e-2) for role in ("student", "critic")},
        }
        method = build(cls, **{**common, **options})
        fit(method, 5)
        found.append(method.state_dict())
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


SAMPLER = ChunkSampler([20.0, 2.0])


# ---------------------------------------------------------------------- Reward Forcing


def test_reward_forcing_with_beta_0_is_self_forcing_bit_for_bit():
    plain, none, some = ends(
        (SelfForcing, {"sampler": SAMPLER}),
        (RewardForcing, {"sampler": SAMPLER, "reward": ToTheRight, "beta": 0.0}),
        (RewardForcing, {"sampler": SAMPLER, "reward": ToTheRight, "beta": 1.0}),
    )
    assert equal(plain, none) and not equal(plain, some)


def test_reward_forcing_by_hand():
    sampler = ChunkSampler([1.0, 0.6], cache=WindowCache(2, 1, "slot"))
    options: dict[str, Any] = {"sampler": sampler, "reward": MotionEnergy, "beta": 0.7, "limit": 0.5}
    method, part = built(RewardForcing, **options), batch()
    found = method.student_loss(part)["match"]
    x = method.sampler.rollout(method.student, part.draws.scoped("student/rollout"), part.condition, torch.float64).x0
    reward = (x[:, 1:] - x[:, :-1]).square().mean((1, 2)).detach()
    factor = torch.exp((0.7 * reward).clamp(max=0.5))
    assert bool((0.7 * reward > 0.5).any()) and bool((0.7 * reward < 0.5).any())
    inputs = method.score_inputs(part)
    real, fake = (network(inputs.x_t, inputs.t, part.condition).x0 for network in (law(), law(std=0.7)))
    g = factor[:, None, None] * (fake - real) / (x.detach() - real).abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(found, 0.5 * g.square().mean())
    assert_same(gradients(found, method.student), gradients((g.detach() * x).sum() / x.numel(), method.student))


def test_motion_energy_by_hand():
    clip = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [1.0, 0.0]]])
    assert float(MotionEnergy()(clip, {})) == pytest.approx((1 + 4 + 0 + 4) / 4)
    assert float(MotionEnergy(axis=2, mean=1.0, deviation=2.0)(clip.mT, {})) == pytest.approx((9 / 4 - 1) / 2)


# ---------------------------------------------------------------------- Live Avatar, Matrix-Game


def test_live_avatar_without_memory_and_matrix_game_with_one_are_self_forcing_bit_for_bit():
    """What differs is the rollout alone."""
    noisy, plain, forgetful, whole, segments = ends(
        (LiveAvatar, {"sampler": ChunkSampler([20.0, 2.0], cache=NoisyCache(2, 0))}),
        (SelfForcing, {"sampler": ChunkSampler([20.0, 2.0], cache=NoisyCache(2, 0))}),
        (LiveAvatar, {"sampler": ChunkSampler([20.0, 2.0], cache=NoisyCache(0, 0))}),
        (SelfForcing, {"sampler": ChunkSampler([20.0, 2.0], cache=WindowCache(0))}),
        (MatrixGame, {"sampler": ChunkSampler([20.0, 2.0], cache=WindowCache(0))}),
    )
    assert equal(noisy, plain) and equal(forgetful, whole) and equal(whole, segments)
    assert not equal(noisy, forgetful)


# ---------------------------------------------------------------------- several scales


def driven() -> tuple[LinearGaussianClips, Tensor, Tensor, dict[str, Tensor]]:
    network = LinearGaussianClips(FLOW, FRAMES, 2, num_classes=2, drive=1)
    g = torch.Generator().manual_seed(0)
    x, drive = torch.randn(4, FRAMES, 2, generator=g).double(), torch.randn(4, FRAMES, 1, generator=g).double()
    return network, x, torch.tensor([0.2, 0.5, 0.7, 0.9]).double(), {"label": torch.arange(4) % 2, "drive": drive}


def test_nested_scales_by_hand():
    network, x, t, condition = driven()
    none = {"label": torch.full((4,), 2), "drive": torch.zeros(4, FRAMES, 1).double()}
    label, both = none | {"label": condition["label"]}, condition
    v0, v1, v2 = (network(x, t, told).x0 for told in (none, label, both))
    found = NestedScales({"label": 3.0, "drive": 1.7})(network, x, t, condition).x0
    torch.testing.assert_close(found, v0 + 3.0 * (v1 - v0) + 1.7 * (v2 - v1))
    ones = NestedScales({"label": 1.0, "drive": 1.0})(network, x, t, condition).x0
    torch.testing.assert_close(ones, v2)
    equal_scales = NestedScales({"drive": 6.0, "label": 6.0})(network, x, t, condition).x0
    torch.testing.assert_close(equal_scales, guided(network, x, t, condition, 6.0).x0)
    reference_alone = NestedScales({"label": 1.0, "drive": 0.0})(network, x, t, condition).x0
    torch.testing.assert_close(reference_alone, v1)
    torch.testing.assert_close(NestedScales({"label": 0.0, "drive": 0.0})(network, x, t, condition).x0, v0)


def test_joint_scales_by_hand():
    network, x, t, condition = driven()
    whole = network(x, t, condition).x0
    no_label, no_drive = (network(x, t, without(network, condition, (name,))).x0 for name in ("label", "drive"))
    assert (no_label - no_drive).abs().max() > 0.1
    base = (3.0 * no_label + 1.5 * no_drive) / 4.5
    hand = base + 3.0 * (whole - no_label) + 1.5 * (whole - no_drive)
    torch.testing.assert_close(JointScales({"label": 3.0, "drive": 1.5})(network, x, t, condition).x0, hand)
    one = JointScales({"label": 2.5})(network, x, t, condition).x0
    torch.testing.assert_close(one, no_label + 2.5 * (whole - no_label))
    torch.testing.assert_close(JointScales({"label": 1.0, "drive": 0.0})(network, x, t, condition).x0, whole)
    with pytest.raises(UserError, match="not all be 0"):
        JointScales({"label": 0.0})
    with pytest.raises(UserError, match="by 'audio', but"):
        JointScales({"audio": 1.0})(network, x, t, condition)


@pytest.mark.parametrize("cls, scales", [(MotionStream, JointScales), (LiveTalk, NestedScales)])
def test_a_teacher_of_several_scales_by_hand(cls: Any, scales: Any):
    network, _, _, condition = driven()
    made = partial(ClipTransformer, FLOW, FRAMES, 2, 16, 2, 2, num_classes=2, drive=1, chunk=2)
    method = built(
        cls,
        teacher=lambda: network,
        critic=lambda: LinearGaussianClips(FLOW, FRAMES, 2, num_classes=2, drive=1, std=0.7),
        student=lambda: stirred(made()),
        scales=scales({"label": 3.0, "drive": 1.5}),
        sampler=ChunkSampler([1.0, 0.6]),
    )
    part = MicroBatch(None, condition, Draws(0, [0, 1, 2, 3]))
    found, inputs = method.student_loss(part)["match"], method.score_inputs(part)
    x = inputs.rollout.x0
    real = scales({"label": 3.0, "drive": 1.5})(network, inputs.x_t, inputs.t, condition).x0
    fake = method.critic(inputs.x_t, inputs.t, condition).x0
    g = ((fake - real) / (x - real).abs().mean((1, 2), keepdim=True)).detach()
    torch.testing.assert_close(found, 0.5 * g.square().mean())
    assert_same(gradients(found, method.student), gradients((g * x).sum() / x.numel(), method.student))


def stirred(network: ClipTransformer) -> ClipTransformer:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return network.double()


def test_a_network_hears_what_drives_the_motion_frame_by_frame():
    _, x, t, condition = driven()
    made = stirred(ClipTransformer(FLOW, FRAMES, 2, 16, 2, 2, num_classes=2, drive=1, chunk=1))
    moved = condition["drive"].clone()
    moved[:, 2] += 1.0
    with torch.no_grad():
        one, other = (made(x, t, condition | {"drive": drive}).x0 for drive in (condition["drive"], moved))
        stream = Stream(made, FullCache())
        view = stream.chunk(1)
        first = view(x[:, :1], t, condition).x0
    assert torch.equal(one[:, :2], other[:, :2]) and (one[:, 2] - other[:, 2]).abs().min() > 0
    torch.testing.assert_close(first, one[:, :1])


def test_frames_that_are_given_stand_first():
    network = law(chunk=2)
    given = torch.full((4, 1, 2), 0.3, dtype=torch.float64)
    condition = {"label": torch.arange(4) % 2, "reference": given}
    x = ChunkSampler([1.0, 0.5]).sample(network, Draws(0, [0, 1, 2, 3]), condition, dtype=torch.float64)
    plain = ChunkSampler([1.0, 0.5]).sample(
        network, Draws(0, [0, 1, 2, 3]), {"label": condition["label"]}, dtype=torch.float64
    )
    assert torch.equal(x[:, :1], given) and (x[:, 2:] - plain[:, 2:]).abs().min() > 1e-4
    stream = Stream(network, FullCache(), reference=given)
    view = stream.chunk(2)
    view(torch.zeros(4, 2, 2).double(), torch.full((4,), 0.5).double(), {"label": condition["label"]})
    assert torch.equal(view.left[0][0].layers[0][0][:, 0], given)


def test_driven_clips_are_of_their_law():
    data = DrivenClips(partial(LinearGaussianClips, FLOW, 4, 2, num_classes=2, drive=1), with_x0=True)
    batch_ = data.make_sources()[0].batch(range(8000))
    condition = batch_["condition"]
    assert condition["drive"].shape == (8000, 4, 1) and float(condition["drive"].abs().max()) <= 1.0
    network = data.law
    mean = network.mean_of(condition, 4, batch_["x0"])
    centred = (batch_["x0"].double() - mean).flatten(1)
    assert float((centred.T @ centred / 8000 - network.covariance).abs().max()) < 0.08
    assert float(centred.mean(0).abs().max()) < 0.05
    again = data.make_sources()[0].batch([5, 4000])
    assert torch.equal(again["x0"], batch_["x0"][[5, 4000]])
    asked = data.evaluation_conditions([3, 8])
    assert torch.equal(asked["drive"][:1], data.evaluation_conditions([3])["drive"])


# ---------------------------------------------------------------------- Salt


class Straight(ClipTransformer):
    """A velocity that is the same everywhere and at all times."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Any, s: Tensor | None = None) -> Tensor:
        shape = [-1, *[1] * (x_t.ndim - 1)]
        if self.running is not None:
            super().predict(x_t, t, condition, s)
        return x_t - t.reshape(shape).to(x_t.dtype) * (1.0 + 0.0 * self.head.weight.sum())


def defect(method: Any, seed: int) -> tuple[Tensor, MicroBatch]:
    part = MicroBatch(None, {"label": torch.arange(4) % 2}, Draws(seed, [0, 1, 2, 3], step=seed))
    (extra,) = method.extras
    return extra.losses(method, "student", part)["semigroup"], part


def test_a_constant_velocity_has_no_defect_and_others_have():
    sampler = ChunkSampler(steps=8)
    straight = built(Salt, student=lambda: Straight(FLOW, FRAMES, 2, 16, 2, 2, num_classes=2, chunk=2), sampler=sampler)
    bent = built(Salt, sampler=sampler)
    values = []
    for seed in range(6):
        assert float(defect(straight, seed)[0]) < 1e-10
        values.append(float(defect(bent, seed)[0]))
    assert sum(value > 1e-4 for value in values) >= 4


def test_the_semigroup_defect_by_hand():
    method = built(Salt, sampler=ChunkSampler(steps=8, stop="last", times="grid"), extras=[SemigroupDefect(0.2)])
    seed = 1
    part = MicroBatch(None, {"label": torch.arange(4) % 2}, Draws(seed, [0, 1, 2, 3], step=seed))
    extra, rollout = method.extras[0], method.rollout(part, "student")
    assert extra.times(method, part, 0.125) is None
    draws = part.draws.scoped("student/semigroup")
    ends_ = [0.5, 0.25][draws.shared_integer("end", 2)]
    between = [k / 8 for k in range(6, 0, -1) if k / 8 > ends_]
    m, r = extra.times(method, part, 0.875)
    assert r == ends_ and m == between[draws.shared_integer("middle", len(between))]
    assert extra.times(method, part, 0.25) is not None and extra.times(method, part, 0.25)[1] == 0.0
    # A call at 0.875: straight on to r, or by way of m, the chunks that were made in sight.
    t = torch.full((4,), 0.875, dtype=torch.float64)
    x_t = rollout.trajectory[1].x_t
    call = Prediction(FLOW, x_t, t, method.student(x_t, t, part.condition | {"clean": rollout.x0.detach()}).value, "x0")
    part.rollouts["student"] = type(rollout)(call.x0, part.condition, t, 1, call.x0, torch.zeros_like(t), (call,))
    found = extra.losses(method, "student", part)["semigroup"]
    v1 = (x_t - call.x0) / 0.875
    x_m = x_t - (0.875 - m) * v1.detach()
    told = part.condition | {"clean": call.x0.detach()}
    v2 = method.student(x_m, torch.full_like(t, m), told).velocity.detach()
    hand = 0.2 * (x_t - (0.875 - r) * v1 - (x_m - (m - r) * v2)).square().mean()
    torch.testing.assert_close(found, hand)
    assert_same(gradients(found, method.student), gradients(hand, method.student))


def test_salt_without_its_parts_is_self_forcing_bit_for_bit():
    plain, same, own = ends(
        (SelfForcing, {"sampler": ChunkSampler(steps=2)}),
        (Salt, {"sampler": MixedChunkSampler(numbers=[2], shares=[1.0]), "extras": []}),
        (Salt, {"sampler": MixedChunkSampler(numbers=[4], shares=[1.0]), "extras": [SemigroupDefect(grid=4)]}),
    )
    assert equal(plain, same) and not equal(plain, own)


def test_numbers_of_calls_are_drawn_by_their_shares():
    sampler = MixedChunkSampler(numbers=[8, 4, 2], shares=[2.0, 2.0, 1.0])
    numbers = [sampler.drawn(Draws(0, [0], step=step)).steps for step in range(2000)]
    assert numbers == [sampler.drawn(Draws(0, [5, 6], step=step)).steps for step in range(2000)]
    for number, share in ((8, 0.4), (4, 0.4), (2, 0.2)):
        assert numbers.count(number) / 2000 == pytest.approx(share, abs=0.04)
    with pytest.raises(UserError, match="a share for each"):
        MixedChunkSampler(numbers=[2], shares=[0.5, 0.5])


# ---------------------------------------------------------------------- VDOT


def predictions(shape: tuple[int, ...]) -> tuple[Tensor, Prediction, Prediction]:
    g, t = torch.Generator().manual_seed(0), torch.full(shape[:1], 0.6, dtype=torch.float64)
    x, x_t, real, fake = torch.randn(4, *shape, generator=g, dtype=torch.float64)
    return x.requires_grad_(), Prediction(FLOW, x_t, t, real, "x0"), Prediction(FLOW, x_t, t, fake, "x0")


def test_transport_with_one_place_in_a_frame_is_dmd_without_its_normaliser():
    x, real, fake = predictions((3, 2, 4, 1, 1))
    (found,) = torch.autograd.grad(TransportForm(matching=0.0)(x, real, fake), x)
    torch.testing.assert_close(found, (fake.x0 - real.x0) / x.numel())


def test_transport_by_hand():
    """Two points each on a line: the plan is that of the 2 x 2 problem, p = 1 / (1 + exp(-d / (2 e)))."""
    a, b = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.2], [1.1]]).double()
    cost = (a - b.T) ** 2
    epsilon = 2.0 * float(cost.mean())
    p = 1 / (1 + torch.exp(-(cost[0, 1] + cost[1, 0] - cost[0, 0] - cost[1, 1]) / (2 * epsilon)))
    expected = torch.stack([torch.stack([p, 1 - p]), torch.stack([1 - p, p])])
    torch.testing.assert_close(transport_plan(a, b, 2.0, 200), expected, rtol=1e-6, atol=1e-9)
    x, _, _ = predictions((1, 1, 1, 2, 1))
    t = torch.tensor([0.5]).double()
    real, fake = (Prediction(FLOW, x.detach(), t, v.reshape(1, 1, 1, 2, 1), "x0") for v in (b, a))
    form = TransportForm(matching=0.0, epsilon=2.0, iterations=200)
    g = (a - expected @ b).reshape(x.shape)
    loss = form(x, real, fake)
    torch.testing.assert_close(loss, 0.5 * g.square().mean(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], g / 2, rtol=1e-6, atol=1e-9)
    half = TransportForm(matching=0.5, epsilon=2.0, iterations=200)(x, real, fake)
    gap = (fake.x0 - real.x0) / (x.detach() - real.x0).abs().mean()
    torch.testing.assert_close(half, loss + 0.25 * gap.square().mean(), rtol=1e-6, atol=1e-9)


def test_identities_of_the_plan():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, 3, generator=g, dtype=torch.float64)
    spread = a - transport_plan(a, b, 1e6, 50) @ b
    torch.testing.assert_close(spread, a - b.mean(0), rtol=1e-4, atol=1e-5)
    for epsilon in (0.3, 1.0):
        move = a - transport_plan(a, b, epsilon, 3000) @ b
        torch.testing.assert_close(move.mean(0), a.mean(0) - b.mean(0), rtol=1e-4, atol=1e-5)
    order = torch.tensor([3, 1, 0, 6, 5, 2, 4])
    still = a - transport_plan(a, a[order], 1e-3, 200) @ a[order]
    assert float(still.abs().max()) < 1e-6


def test_vdot_uses_its_form():
    plain, both = ends(
        (SelfForcing, {"sampler": SAMPLER}), (VDOT, {"sampler": SAMPLER, "form": TransportForm(channels=-1)})
    )
    assert not equal(plain, both)
    assert EMASink().sink == 3 and student().chunk == 2
