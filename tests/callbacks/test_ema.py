import math

import pytest
import torch
from lightning.pytorch import Callback
from tiny import BATCH, TinyData, TinyDistiller, trainer, weights

from fastgen.callbacks import EMA, Checkpoint, ConstantEMA, HalfLifeEMA, PowerEMA
from fastgen.callbacks.ema import half_life_beta, power_beta, power_gamma
from fastgen.errors import UserError


class Watch(Callback):
    """The student's weight after each update."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, method, outputs, batch, batch_idx):
        if trainer.global_step > len(self.seen):
            self.seen.append(method.student.layer.weight.detach().clone())


def by_hand(start, seen, beta, start_step=0):
    average = start.clone()
    for step, weight in enumerate(seen, start=1):
        b = beta(step - start_step) if step > start_step else 0.0
        average = b * average + (1 - b) * weight
    return average


RULES = {
    "constant": (ConstantEMA(0.9), lambda t: 0.9),
    "half_life": (
        HalfLifeEMA(half_life=0.05, ramp_up=0.5),  # 50 samples
        lambda t: 0.5 ** (BATCH / max(min(50.0, (t - 1) * BATCH * 0.5), 1e-8)),
    ),
    "half_life_without_ramp": (HalfLifeEMA(half_life=0.05, ramp_up=None), lambda t: 0.5 ** (BATCH / 50.0)),
    "power": (PowerEMA(gamma=3.0), lambda t: (1 - 1 / t) ** 4.0),
}


def test_beta_formulas():
    assert half_life_beta(500_000, 512, 0, 0.05) == 0.0
    assert half_life_beta(500_000, 512, 1_000_000, 0.05) == pytest.approx(0.5 ** (512 / 50_000))
    assert half_life_beta(500_000, 512, 10**9, 0.05) == pytest.approx(0.5 ** (512 / 500_000))
    assert power_beta(6.94, 1) == 0.0
    assert power_beta(6.94, 4) == pytest.approx(0.75**7.94)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_power_gamma_is_the_papers(sigma_rel, gamma):
    solved = power_gamma(sigma_rel)
    assert solved == pytest.approx(gamma, abs=0.005)
    assert math.sqrt(solved + 1) / ((solved + 2) * math.sqrt(solved + 3)) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("start_step", [0, 4])
def test_average_equals_hand_computation(tmp_path, rule, start_step):
    watch, (law, beta) = Watch(), RULES[rule]
    # The student is updated in every third batch only, so an average that moves per batch would differ.
    method = TinyDistiller(critic_every=3)
    trainer(tmp_path, [watch, EMA("slow", law, start_step)], max_steps=9).fit(method, TinyData())
    start = method.teacher.layer.weight
    expected = by_hand(start, watch.seen, beta, start_step)
    assert len(watch.seen) == 9
    torch.testing.assert_close(method.averages["slow"].layer.weight, expected, rtol=1e-6, atol=1e-7)
    assert (expected - watch.seen[-1]).abs().max() > 1e-4
    assert not method.averages["slow"].layer.weight.requires_grad


def test_buffers_are_copied_and_frozen_parameters_stay(tmp_path):
    class Freezing(TinyDistiller):
        def build_roles(self):
            super().build_roles()
            self.student.layer.bias.requires_grad_(False)

        def student_loss(self, part):
            self.student.calls += 1
            return super().student_loss(part)

    method = Freezing()
    trainer(tmp_path, [EMA()], max_steps=5).fit(method, TinyData())
    assert method.averages["ema"].calls.item() == 5
    assert torch.equal(method.averages["ema"].layer.bias, method.teacher.layer.bias)
    assert not torch.equal(method.averages["ema"].layer.weight, method.teacher.layer.weight)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_two_averages_and_resume_are_exact(tmp_path, precision):
    def callbacks():
        fast, wide = EMA("fast", HalfLifeEMA(0.02, 0.3)), EMA("wide", PowerEMA(0.1), start_step=2)
        return [fast, wide, Checkpoint(every_n_steps=5)]

    straight = TinyDistiller(critic_every=2)
    trainer(tmp_path / "a", callbacks(), max_steps=10, precision=precision).fit(straight, TinyData())
    first = TinyDistiller(critic_every=2)
    trainer(tmp_path / "b", callbacks(), max_steps=5, precision=precision).fit(first, TinyData())
    resumed = TinyDistiller(critic_every=2)
    last = tmp_path / "b" / "checkpoints" / "last.ckpt"
    trainer(tmp_path / "c", callbacks(), max_steps=10, precision=precision).fit(
        resumed, TinyData(), ckpt_path=last, weights_only=True
    )
    one, other = weights(straight), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["averages.fast.layer.weight"], one["averages.wide.layer.weight"])
    assert resumed.network("average") is resumed.averages["fast"]


def test_bf16_true_keeps_student_and_average_in_fp32(tmp_path):
    method = TinyDistiller(lr=1e-3)
    trainer(tmp_path, [EMA(rule=ConstantEMA(0.999))], max_steps=5, precision="bf16-true").fit(method, TinyData())
    assert method.teacher.layer.weight.dtype == torch.bfloat16
    student = method.student.layer.weight
    assert student.dtype == torch.float32 and not torch.equal(student, student.bfloat16().float())
    average = method.averages["ema"].layer.weight
    assert average.dtype == torch.float32
    assert not torch.equal(average, average.bfloat16().float())
    assert method.sample([0, 1], {}).dtype == torch.float32


def test_skipped_update_does_not_move_the_average(tmp_path):
    method = TinyDistiller()
    method.spoiled = {0, 2}
    watch = Watch()
    trainer(tmp_path, [watch, EMA(rule=ConstantEMA(0.5))], max_steps=3).fit(method, TinyData())
    assert method.bad_steps_total == 2
    expected = by_hand(method.teacher.layer.weight, watch.seen, lambda t: 0.5)
    torch.testing.assert_close(method.averages["ema"].layer.weight, expected)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="decay"):
        ConstantEMA(1.0)
    with pytest.raises(UserError, match="sigma_rel"):
        PowerEMA(sigma_rel=0.5)
    with pytest.raises(UserError, match="name"):
        EMA("a.b")


def test_weights_that_are_no_numbers_end_the_run_and_leave_the_average(tmp_path):
    class Break(Callback):
        def on_before_optimizer_step(self, trainer, method, optimizer):
            if trainer.global_step == 2:
                method.student.layer.weight.data[0, 0] = float("nan")

    method = TinyDistiller()
    with pytest.raises(UserError, match=r"not finite after update 3.*'ema' was not moved"):
        trainer(tmp_path, [EMA(), Break()], max_steps=5).fit(method, TinyData())
    assert all(bool(p.isfinite().all()) for p in method.averages["ema"].parameters())
