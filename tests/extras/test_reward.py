"""The reward term against closed forms, and on the digits' classifier."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import ToyData, build, trainer

from fastgen.conditions import Condition
from fastgen.data.digits import load_digits_split
from fastgen.denoisers import Codec
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.micro_batch import MicroBatch, split
from fastgen.errors import UserError
from fastgen.extras import DigitLogProbability, Reward, RewardModel
from fastgen.methods import DMD2, GDD, KD, PiFlow, Progressive, Reflow, SiD, TeacherTraining
from fastgen.processes import EDM
from fastgen.randomness import Draws
from fastgen.sampling.samplers import PolicySampler

pytestmark = pytest.mark.filterwarnings("ignore")
GOAL = torch.tensor([0.7, -0.2], dtype=torch.float64)


class Near(RewardModel):
    """r = -1/2 |x - goal - label|^2."""

    def __init__(self) -> None:
        super().__init__()
        self.goal = nn.Parameter(GOAL.clone())

    def forward(self, samples: Tensor, condition: Mapping[str, Any]) -> Tensor:
        shift = condition["label"][:, None] if "label" in condition else 0.0
        return -0.5 * (samples - self.goal - shift).square().sum(1)


class Points(Denoiser):
    """Every sample is a parameter."""

    def __init__(self, points: Tensor) -> None:
        super().__init__(EDM(), "x0", (2,))
        self.points = nn.Parameter(points.clone())

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.points


def regressed(points: Tensor, targets: Tensor, **reward: Any) -> tuple[KD, MicroBatch]:
    method = KD(student=partial(Points, points), extras=[Reward(Near, **reward)])
    method.configure_model()
    noise = torch.zeros(len(points), 2, dtype=torch.float64)
    return method, MicroBatch(targets, {}, Draws(0, range(len(points))), noise=noise, raw_condition={})


def total(method: KD, piece: MicroBatch) -> Tensor:
    return torch.stack([loss.double() for loss in method.losses("student", piece).values()]).sum()


@pytest.fixture(autouse=True)
def attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses ask how many updates there were; without a trainer there were none."""
    monkeypatch.setattr(KD, "global_step", 0, raising=False)


def test_gradient_and_optimum_with_a_regression():
    """KD plus weight w pulls to (y + 2 w goal) / (1 + 2 w): half the mean over 2 coordinates against the sum."""
    g = torch.Generator().manual_seed(0)
    w, y, x = 0.3, *(torch.randn(5, 2, generator=g, dtype=torch.float64) for _ in range(2))
    method, piece = regressed(x, y, weight=w)
    losses = method.losses("student", piece)
    assert set(losses) == {"regression", "reward"}
    expected = w * 0.5 * (x - GOAL).square().sum(1).mean()
    torch.testing.assert_close(losses["reward"].double(), expected, rtol=1e-6, atol=0)
    total(method, piece).backward()
    gradient = (x - y) / 10 + w * (x - GOAL) / 5
    torch.testing.assert_close(method.student.points.grad, gradient, rtol=1e-6, atol=1e-7)
    best = (y + 2 * w * GOAL) / (1 + 2 * w)
    method, piece = regressed(best, y, weight=w)
    total(method, piece).backward()
    assert method.student.points.grad.abs().max() < 1e-7


def test_a_margin_ends_the_pull():
    x = torch.stack([GOAL + 0.1, GOAL + 3.0])
    method, piece = regressed(x, x, weight=2.0, margin=-0.5)
    total(method, piece).backward()
    torch.testing.assert_close(method.student.points.grad[0], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(
        method.student.points.grad[1], torch.full((2,), 3.0, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_the_judge_sees_what_was_asked_for_and_is_neither_trained_nor_saved():
    method = build(KD, extras=[Reward(Near, weight=0.1)])
    run = trainer(2)
    run.fit(method, ToyData(batch_size=4))
    assert not [name for name in method.state_dict() if "extras" in name]
    (extra,) = method.each_extra()
    assert torch.equal(extra.model.goal.double(), GOAL) and not extra.model.goal.requires_grad
    assert {"student/reward", "health/reward"} <= run.callback_metrics.keys()
    batch = {"x0": torch.zeros(2, 2), "condition": {"prompt": ["a", "b"]}}

    class Words(Codec):
        def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
            return {"prompt_embeds": torch.zeros(len(condition["prompt"]), 3)}

    first, second = split(batch, 2, Draws(0, range(2)), Words())
    assert first.raw_condition == {"prompt": ["a"]} and second.raw_condition == {"prompt": ["b"]}


@pytest.mark.parametrize("cls", [DMD2, GDD, KD, PiFlow, Progressive, Reflow, SiD])
def test_every_method_that_makes_samples_can_carry_it(cls: type):
    given = {"sampler": PolicySampler(substeps=8)} if cls is PiFlow else {}
    method = build(cls, extras=[Reward(Near, weight=0.1, start=0)], **given)
    run = trainer(6)
    run.fit(method, ToyData(batch_size=4))
    assert torch.isfinite(run.callback_metrics["student/reward"])


def test_the_judge_is_built_in_fp32_whatever_the_precision_of_the_networks():
    class Weighted(Near):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    method = build(KD, extras=[Reward(Weighted)])
    trainer(1, precision="bf16-true").fit(method, ToyData(batch_size=4))
    assert method.extras[0].model.scale.dtype == torch.float32


def test_a_method_without_samples_says_so():
    method = build(TeacherTraining, extras=[Reward(Near)])
    with pytest.raises(UserError, match="makes no few-step samples"):
        trainer(1).fit(method, ToyData(batch_size=4))


def test_the_classifier_prefers_the_right_digit_and_gives_gradients():
    model = DigitLogProbability().requires_grad_(False).eval()
    _, held_out = load_digits_split()
    images, label = held_out.x0[:100].clone().requires_grad_(), held_out.label[:100]
    right, wrong = model(images, {"label": label}), model(images, {"label": (label + 1) % 10})
    assert right.shape == (100,) and (right <= 0).all() and right.mean() > -0.2 > -2 > wrong.mean()
    wrong.sum().backward()
    assert images.grad.abs().sum() > 0
    probabilities = torch.stack([model(images.detach(), {"label": label.new_full((100,), d)}) for d in range(10)]).exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(100))
    with pytest.raises(UserError, match="label"):
        model(images, {})
