import math

import torch

from fastgen.objectives.adversarial import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    smoothness_penalty,
)


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def test_generator_value_and_gradient():
    logits = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    loss = generator_loss(logits)
    loss.backward()
    assert abs(loss.item() - sum(softplus(-v) for v in logits.tolist()) / 3) < 1e-12
    expected = torch.tensor([-sigmoid(-v) / 3 for v in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-10, atol=0.0)


def test_discriminator_value_and_gradients():
    real = torch.tensor([-1.5, 0.0, 2.0, 0.3], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([0.7, -0.2], dtype=torch.float64, requires_grad=True)
    loss = discriminator_loss(real, fake)
    loss.backward()
    by_hand = sum(softplus(-v) for v in real.tolist()) / 4 + sum(softplus(v) for v in fake.tolist()) / 2
    assert abs(loss.item() - by_hand) < 1e-12
    torch.testing.assert_close(real.grad, -torch.sigmoid(-real.detach()) / 4, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(fake.grad, torch.sigmoid(fake.detach()) / 2, rtol=1e-10, atol=0.0)


def test_the_optimal_logit_is_the_log_density_ratio():
    """With p_real : p_fake = 3 : 1 at a point, the loss there is least at log 3."""
    logit = torch.tensor(math.log(3.0), dtype=torch.float64, requires_grad=True)
    # A confident logit on the other side switches that term off.
    loss = 3 * discriminator_loss(logit[None], torch.full((1,), -1e3, dtype=torch.float64)) + discriminator_loss(
        torch.full((1,), 1e3, dtype=torch.float64), logit[None]
    )
    loss.backward()
    assert abs(logit.grad.item()) < 1e-12


def test_the_smoothness_penalty_is_that_of_every_head_and_moves_both_sides():
    real, moved = torch.tensor([[1.0, -1.0]], requires_grad=True), torch.tensor([[0.0, 0.0]], requires_grad=True)
    penalty = smoothness_penalty(real, moved)
    assert penalty.item() == 1.0, "heads that move apart do not cancel"
    penalty.backward()
    torch.testing.assert_close(real.grad, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(moved.grad, -real.grad)


def test_r1_has_a_gradient_for_the_discriminator():
    """D(x) = a sum x^2: the penalty is 2 a^2 |x|^2, its slope in a is 4 a |x|^2."""
    a, x = torch.tensor(1.5, requires_grad=True), torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    penalty = gradient_penalty(a * x.square().sum(1), x)
    torch.testing.assert_close(penalty.detach(), torch.tensor(2 * 1.5**2 * (5.0 + 1.0) / 2))
    (slope,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(slope, torch.tensor(4 * 1.5 * (5.0 + 1.0) / 2))
