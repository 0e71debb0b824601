import pytest
import torch

from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import EDMWeight, LevelWeight, MinSNRWeight, UniformWeight
from fastgen.processes import EDM, PREDICTION_KINDS, VP, Prediction, PredictionKind, Process, RectifiedFlow, TrigFlow

PROCESSES = [EDM(), VP(), RectifiedFlow(), TrigFlow()]


def problem(process: Process) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(3)
    x0, noise, value = (torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=g) for _ in range(3))
    t = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64) * process.t_max
    return x0, noise, value, t


def truth(
    process: Process, kind: PredictionKind, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """The target by its definition."""
    shape = (3, 1, 1, 1)
    alpha, sigma = (c.reshape(shape) for c in process.coefficients(t))
    alpha_dot, sigma_dot = (c.reshape(shape) for c in process.derivatives(t))
    return {
        "x0": x0,
        "noise": noise,
        "v": alpha * noise - sigma * x0,
        "velocity": alpha_dot * x0 + sigma_dot * noise,
        "score": -noise / sigma,
    }[kind]


def test_edm_weight_by_hand():
    weight = EDMWeight(0.5)(torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64))
    expected = torch.tensor([1 / 0.002**2 + 4.0, 8.0, 4.0 + 1 / 6400.0], dtype=torch.float64)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=0.0)
    # SiD and EDM write it as (sigma^2 + s^2) / (sigma s)^2.
    sigma = torch.linspace(0.01, 80, 7, dtype=torch.float64)
    torch.testing.assert_close(EDMWeight(0.3)(sigma), (sigma**2 + 0.09) / (sigma * 0.3) ** 2, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("target", PREDICTION_KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [EDMWeight(0.7), UniformWeight()], ids=lambda w: type(w).__name__)
def test_value_and_gradient_of_every_target(
    process: Process, target: PredictionKind, reduction: str, weight: LevelWeight
):
    x0, noise, value, t = problem(process)
    value.requires_grad_()
    loss = DenoisingLoss(target, weight, reduction)  # type: ignore[arg-type]
    result = loss(Prediction(process, process.add_noise(x0, noise, t), t, value, target), x0, noise)
    result.backward()
    error = value.detach() - truth(process, target, x0, noise, t)
    alpha, sigma = process.coefficients(t)
    factor = (
        (alpha / sigma).square() + 1 / 0.49 if isinstance(weight, EDMWeight) else torch.ones(3, dtype=torch.float64)
    )
    factor = factor.reshape(3, 1, 1, 1) / (120 if reduction == "mean" else 3)
    torch.testing.assert_close(result, (factor * error.square()).sum(), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(value.grad, 2 * factor * error, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", PREDICTION_KINDS)
@pytest.mark.parametrize("target", ["x0", "noise", "v"])
def test_the_target_may_differ_from_what_the_network_predicts(
    process: Process, kind: PredictionKind, target: PredictionKind
):
    """Errors of two parametrisations differ by the known factor of the process."""
    x0, noise, value, t = problem(process)
    x_t = process.add_noise(x0, noise, t)
    prediction = Prediction(process, x_t, t, value, kind)
    alpha, sigma = (c.reshape(3, 1, 1, 1) for c in process.coefficients(t))
    error = prediction.x0 - x0
    expected = {"x0": error, "noise": -alpha / sigma * error, "v": -(alpha**2 + sigma**2) / sigma * error}[target]
    result = DenoisingLoss(target, UniformWeight())(prediction, x0, noise)
    torch.testing.assert_close(result, expected.square().mean(), rtol=1e-8, atol=0.0)


def test_the_truth_costs_nothing_at_the_smallest_noise():
    """In fp32 a noise target derived from x0 would be off by eps / sigma."""
    process = EDM()
    x0, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    t = torch.full((3,), 1e-4)
    prediction = Prediction(process, process.add_noise(x0, noise, t), t, noise, "noise")
    assert DenoisingLoss("noise", UniformWeight())(prediction, x0, noise).item() == 0.0


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_min_snr_is_the_papers_weight_of_the_noise(process: Process):
    x0, noise, value, t = problem(process)
    prediction = Prediction(process, process.add_noise(x0, noise, t), t, value, "noise")
    alpha, sigma = process.coefficients(t)
    snr = (alpha / sigma).square()
    weight = (torch.minimum(snr, torch.tensor(5.0)) / snr).reshape(3, 1, 1, 1)
    expected = (weight * (value - noise).square()).mean()
    torch.testing.assert_close(DenoisingLoss("x0", MinSNRWeight())(prediction, x0, noise), expected, rtol=1e-9, atol=0)
