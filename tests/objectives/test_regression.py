import pytest
import torch

from fastgen.objectives.metrics import AbsoluteError, Metric, PseudoHuber, Reduction, SquaredError
from fastgen.objectives.progressive import ddim_target, halving_loss
from fastgen.objectives.regression import flow_velocity
from fastgen.objectives.weights import LevelWeight, SNRPlusOneWeight, SNRWeight, TruncatedSNRWeight, UniformWeight
from fastgen.processes import EDM, VP, Prediction, Process, RectifiedFlow, TrigFlow

PROCESSES = {"edm": EDM(), "vp": VP(), "flow": RectifiedFlow(), "trig": TrigFlow()}
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_and_gradients(reduction: Reduction):
    x, y = numbers(5, 2, 3).requires_grad_(), numbers(5, 2, 3, seed=1)
    d, c2 = (x - y).detach(), 0.1**2 * 6
    norm = (d.square().sum((1, 2), keepdim=True) + c2).sqrt()
    scale = 6 if reduction == "mean" else 1
    expected: dict[Metric, tuple[torch.Tensor, torch.Tensor]] = {
        SquaredError(0.5, reduction): (0.5 * d.square() / scale, d / scale),
        AbsoluteError(reduction): (d.abs() / scale, d.sign() / scale),
        PseudoHuber(0.1, per_element=True): ((norm - c2**0.5) / 6, d / norm),
    }
    for metric, (value, gradient) in expected.items():
        loss = metric(x, y).mean()
        (found,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(loss.detach(), value.expand_as(d).sum() / 5, rtol=1e-12, atol=0)
        torch.testing.assert_close(found, gradient / 5, rtol=1e-12, atol=1e-15)


@by_process
def test_flow_velocity_is_the_velocity_of_rectified_flow_at_the_same_noise_level(process: Process):
    x0, noise = numbers(6, 3), numbers(6, 3, seed=1)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64) * process.t_max
    guess = numbers(6, 3, seed=2)
    x_t = process.add_noise(x0, noise, t)
    flow = RectifiedFlow()
    there, s = process.warp(x_t, t, flow)
    expected = Prediction(flow, there, s, guess, "x0").velocity
    torch.testing.assert_close(flow_velocity(Prediction(process, x_t, t, guess, "x0")), expected, rtol=1e-9, atol=1e-9)


@by_process
def test_one_step_with_the_progressive_target_lands_where_two_landed(process: Process):
    x_t, x_s = numbers(7, 4), numbers(7, 4, seed=1)
    t = torch.linspace(0.2, 1.0, 7, dtype=torch.float64) * process.t_max
    for s in (0.6 * t, torch.full_like(t, process.t_clean)):
        target = ddim_target(process, x_t, t, x_s, s)
        landed = process.jump(Prediction(process, x_t, t, target, "x0"), s)
        torch.testing.assert_close(landed, x_s, rtol=1e-12, atol=1e-12)
    assert torch.equal(target, x_s), "the last step's target is where it ends"


@by_process
def test_snr_weights_are_errors_of_other_parametrisations(process: Process):
    x_t, x0, target = (numbers(8, 3, seed=i) for i in range(3))
    t = torch.linspace(0.2, 0.95, 8, dtype=torch.float64) ** 4 * process.t_max
    one, other = (Prediction(process, x_t, t, value, "x0") for value in (x0, target))
    noise_error = (one.noise - other.noise).square().mean(1)
    x0_error = (x0 - target).square().mean(1)
    snr = process.ratio(t).pow(-2)
    expected: dict[LevelWeight, torch.Tensor] = {
        UniformWeight(): x0_error,
        SNRWeight(): noise_error,
        TruncatedSNRWeight(): torch.maximum(x0_error, noise_error),
        SNRPlusOneWeight(): x0_error + noise_error,
    }
    for weight, error in expected.items():
        torch.testing.assert_close(halving_loss(process, t, x0, target, weight), error.mean(), rtol=1e-9, atol=0)
    assert (snr < 1).any() and (snr > 1).any()
    if isinstance(process, VP):  # v of a variance-preserving process
        torch.testing.assert_close(
            (one.v - other.v).square().mean(1), expected[SNRPlusOneWeight()], rtol=1e-9, atol=1e-12
        )
