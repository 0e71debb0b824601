"""SwD: pictures that grow, its training inputs, and all its terms in the size of a call; by hand in fp64."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CLASSES, build, network, trainer

from fastgen.conditions import Condition, Guidance
from fastgen.data import Digits
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.unet import UNet
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import TokenMMD
from fastgen.methods import DMD2, SwD
from fastgen.objectives.mmd import Discrepancy, MeanGap, RBFKernel
from fastgen.processes import EDM, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import ScaleSampler
from fastgen.sampling.samplers.scales import resized

pytestmark = pytest.mark.filterwarnings("ignore")
FLOW = RectifiedFlow()
TIMES = [1.0, 0.9, 0.75, 0.625]
SHAPES = [(3, 4, 2), (3, 6, 4), (3, 8, 6), (3, 12, 8)]
SCALES = [0.3, 0.5, 0.7, 1.0]


class Scaled(Denoiser):
    """``x0 = scale x_t`` of pictures of any size; writes down the shapes that it sees."""

    def __init__(self, scale: float) -> None:
        super().__init__(FLOW, "x0", (3, 12, 8))
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.seen: list[tuple[int, ...]] = []

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        self.seen.append(tuple(x_t.shape[1:]))
        return self.scale * x_t


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_sizes():
    x = numbers(2, 3, 8, 8)
    torch.testing.assert_close(resized(x, (3, 4, 4)), F.avg_pool2d(x, 2))
    larger = F.interpolate(x, (12, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized(x, (3, 12, 16)), larger)
    video = numbers(2, 3, 5, 8, 8)
    frames = [resized(video[:, :, i], (3, 4, 4)) for i in range(5)]
    torch.testing.assert_close(resized(video, (3, 5, 4, 4)), torch.stack(frames, 2))
    assert resized(numbers(2, 7), (7,)).shape == (2, 7) and resized(x, (3, 8, 8)) is x
    sampler = ScaleSampler(TIMES, scales=SCALES)
    assert sampler.shapes(Scaled(0.5), 4) == SHAPES
    assert sampler.shapes(Scaled(0.5), 1) == SHAPES[-1:] and sampler.shapes(Scaled(0.5), 6) == [
        *SHAPES[:1] * 2,
        *SHAPES,
    ]
    latents = UNet(FLOW, channels=16, resolution=128, width=8)
    assert [shape[-1] for shape in ScaleSampler().shapes(latents, 4)] == [64, 80, 96, 128], "SD3.5 medium's"
    for scales in ([0.5, 1.0], [0.5, 0.7, 0.6, 1.0], [0.5, 0.6, 0.7, 0.8]):
        with pytest.raises(UserError, match="scales"):
            ScaleSampler(TIMES, scales=scales)


def chain(draws: Draws, a: Tensor, steps: int) -> list[Tensor]:
    """The inputs of so many calls."""
    x, inputs = draws.normal("noise", SHAPES[0], torch.float64), []
    for i in range(steps):
        inputs.append(x)
        if i + 1 < steps:
            noise = draws.normal(f"noise{i + 1}", SHAPES[i + 1], torch.float64)
            x = (1 - TIMES[i + 1]) * resized(a * x, SHAPES[i + 1]) + TIMES[i + 1] * noise
    return inputs


def test_the_chain_by_hand():
    """x0, larger, fresh noise at the next time."""
    sampler, denoiser, draws = ScaleSampler(TIMES, scales=SCALES), Scaled(0.4), Draws(0, range(3), "sample")
    with torch.no_grad():
        found = sampler.sample(denoiser, draws, {}, dtype=torch.float64)
        inputs = chain(draws, denoiser.scale, 4)
    torch.testing.assert_close(found, 0.4 * inputs[-1])
    assert denoiser.seen == SHAPES and found.shape == (3, 3, 12, 8)
    step = draws.shared_integer("step", 4)
    rollout = sampler.rollout(denoiser, draws, {}, torch.float64)
    torch.testing.assert_close(rollout.x0, denoiser.scale * inputs[step])
    assert rollout.x0.requires_grad and [one.x_t.requires_grad for one in rollout.trajectory] == [False] * (step + 1)
    with pytest.raises(UserError, match="less noise than it is given"):
        sampler.rollout(denoiser, draws, {}, torch.float64, numbers(3, 3, 12, 8))


def swd(extras: list[Any], **kwargs: Any) -> Any:
    networks = {name: partial(Scaled, a) for name, a in (("teacher", 0.7), ("critic", 0.2), ("student", 0.4))}
    sampler, guidance = ScaleSampler(TIMES, scales=SCALES), Guidance()
    method = SwD(**networks, sampler=sampler, guidance=guidance, extras=extras, **kwargs)
    method.configure_model()
    method.__dict__["_trainer"] = type("", (), {"training": False, "global_step": 0})
    return method


def pictures(step: int) -> MicroBatch:
    return MicroBatch(numbers(4, 3, 12, 8), {}, Draws(1, range(4), "train", step=step))


def test_swd_by_hand():
    """One call on real samples made as small as the step before leaves them; DMD's gradient in that call's size."""
    seen = set()
    for step in range(16):
        method, part = swd([]), pictures(step)
        loss = method.student_loss(part)["match"]
        rollout, inputs, found = part.rollouts["student"], part.score_inputs["critic"], part.comparisons["critic"]
        k, draws = rollout.step, part.draws.scoped("student/rollout")
        seen.add(k)
        noise = draws.normal("noise", SHAPES[k], torch.float64)
        small = resized(resized(part.x0, SHAPES[k - 1]), SHAPES[k]) if k else 0.0
        x_t = (1 - TIMES[k]) * small + TIMES[k] * noise
        torch.testing.assert_close(rollout.x0, method.student.scale * x_t)
        assert bool((inputs.t <= 3 * (16 / 28) / (1 + 2 * 16 / 28) + 1e-9).all())
        torch.testing.assert_close(
            (found.real.x0, found.fake.x0), (0.7 * inputs.x_t.detach(), 0.2 * inputs.x_t.detach())
        )
        direction = -0.5 * inputs.x_t / (rollout.x0 - 0.7 * inputs.x_t).abs().mean((1, 2, 3), keepdim=True)
        (slope,) = torch.autograd.grad(loss, method.student.scale)
        torch.testing.assert_close(slope, (direction.detach() * x_t).mean(), rtol=1e-9, atol=0)
        torch.testing.assert_close(method.real_samples(part, rollout), resized(part.x0, SHAPES[k]))
    assert seen == {0, 1, 2, 3}
    assert [i for i in range(18) if swd([]).turns(i) == ("student",)] == [5, 11, 17]
    assert [type(extra) for extra in build(SwD).each_extra()] == [TokenMMD]


def test_without_data_it_is_the_students_own_chain():
    method, part = swd([]), pictures(2)
    part.x0 = None
    rollout = method.rollout(part, "student")
    inputs = chain(part.draws.scoped("student/rollout"), method.student.scale.detach(), rollout.step + 1)
    torch.testing.assert_close(rollout.x0, method.student.scale * inputs[-1])


def test_tokens_may_be_compared_by_all_of_their_law():
    """Two tokens of one number each, width b: value and gradient of the unbiased discrepancy by hand."""
    b, real = 1.5, torch.tensor([[[0.5], [3.0]]])
    a = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64, requires_grad=True)
    k = lambda d: math.exp(-d * d / (2 * b * b))  # noqa: E731
    distance = Discrepancy(RBFKernel(b))
    loss = distance(a, real.double())
    expected = k(1.0) + k(2.5) - 2 * (k(0.5) + k(3.0) + k(0.5) + k(2.0)) / 4
    assert abs(loss.item() - expected) < 1e-12
    (slope,) = torch.autograd.grad(loss, a)
    first = k(1.0) * 1.0 / b**2 - 0.5 * (k(0.5) * 0.5 / b**2 + k(3.0) * 3.0 / b**2)
    second = -k(1.0) * 1.0 / b**2 - 0.5 * (-k(0.5) * 0.5 / b**2 + k(2.0) * 2.0 / b**2)
    torch.testing.assert_close(slope.flatten(), torch.tensor([first, second], dtype=torch.float64))
    assert TokenMMD(distance=distance).distance == Discrepancy(RBFKernel(b), unbiased=True)


def test_tokens_by_hand():
    """The same noise on the student's and the real sample; means over places, pair by pair; no gradient but in x."""
    extra = TokenMMD(weight=2.0, layer="blocks.0", distance=MeanGap(0.1))
    roles = {
        name: partial(lambda seed: network(seed).double(), i) for i, name in enumerate(("teacher", "student", "critic"))
    }
    method = build(DMD2, extras=[extra], **roles)
    method.configure_model()
    label = torch.arange(6) % CLASSES
    part = MicroBatch(numbers(6, 2), {"label": label}, Draws(1, range(6), "train"))
    method.__dict__["_trainer"] = type("", (), {"training": False, "global_step": 0})
    with method.only("student"):
        loss = method.losses("student", part)["tokens"]
    x, draws = part.rollouts["student"].x0, part.draws.scoped("student/tokens")
    t, noise = extra.time.sample(draws, EDM()), draws.normal("noise", (2,), torch.float64)
    seen: list[Tensor] = []
    method.critic.get_submodule("blocks.0").register_forward_hook(lambda *a: seen.append(a[2]))
    for one in (x, part.x0):
        method.critic(one + t[:, None] * noise, t, {"label": label})
    gap = seen[0] - seen[1].detach()
    expected = 2.0 * ((gap.square() + 0.01).sqrt() - 0.1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    (found,), (wanted,) = torch.autograd.grad(loss, x, retain_graph=True), torch.autograd.grad(expected, x)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    part.x0 = x.detach()
    again = MicroBatch(x.detach(), {"label": label}, Draws(1, range(6), "train"))
    assert method.losses("student", again)["tokens"] < 1e-12, "the student's own samples are no distance away"


def test_pictures_train_in_all_their_sizes():
    """A network of convolutions, at 4 and at 8 pixels."""

    def unet() -> UNet:
        return UNet(EDM(), width=8, num_classes=10)

    sampler = ScaleSampler([10.0, 1.0], scales=[0.5, 1.0])
    method = SwD(
        teacher=unet,
        student=unet,
        critic=unet,
        sampler=sampler,
        guidance=Guidance(),
        schedule=DMD2(teacher=unet).schedule,
        extras=[TokenMMD(layer="mid")],
    )
    trainer(3).fit(method, Digits(batch_size=4))
    assert method.sample([1, 2], {"label": torch.tensor([3, 4])}).shape == (2, 1, 8, 8)
