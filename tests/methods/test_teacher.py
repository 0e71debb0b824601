import pytest
import torch
from torch import Tensor
from toys import CLASSES, network

from fastgen.denoisers.networks.mlp import MLP
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import TeacherTraining
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import EDM, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.times import UniformTime


def step(count: int, process: Process, **kwargs) -> tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor, MLP]:
    """The loss and what the network was asked: (x_t, t), the labels and the data."""
    method, asked = TeacherTraining(student=lambda: network(0, process), **kwargs), []
    method.configure_model()
    method.student.register_forward_pre_hook(lambda _, args: asked.append(args))
    x0 = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    part = MicroBatch(x0, {"label": torch.arange(count) % CLASSES}, Draws(1, range(count), "train"))
    loss = method.student_loss(part)["denoising"]
    ((x_t, t, condition),) = asked
    return loss, (x_t, t), condition["label"], x0, method.student


def test_edm_loss_by_hand():
    loss, (x_t, t), label, x0, student = step(8, EDM(), condition_dropout=0.0)
    assert torch.equal(label, torch.arange(8) % CLASSES)
    error = (student(x_t, t, {"label": label}).x0 - x0).square()
    weight = (t.pow(-2) + 4.0).float()[:, None]
    torch.testing.assert_close(loss, (weight * error).mean(), rtol=1e-5, atol=0.0)


def test_flow_matching_by_hand():
    """The velocity of x_t = (1 - t) x0 + t noise is noise - x0 = (x_t - x0) / t."""
    objective = DenoisingLoss("velocity", UniformWeight())
    loss, (x_t, t), label, x0, student = step(
        8, RectifiedFlow(), condition_dropout=0.0, objective=objective, time=UniformTime(0.2, 0.9)
    )
    error = student(x_t, t, {"label": label}).velocity - (x_t - x0) / t.float()[:, None]
    torch.testing.assert_close(loss, error.square().mean(), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_conditions_are_dropped_at_the_given_rate(rate: float):
    count = 2000
    _, _, label, _, _ = step(count, EDM(), condition_dropout=rate)
    dropped = label == CLASSES
    assert abs(dropped.double().mean() - rate) < 4 * (rate * (1 - rate) / count) ** 0.5
    assert torch.equal(label[~dropped], (torch.arange(count) % CLASSES)[~dropped])
