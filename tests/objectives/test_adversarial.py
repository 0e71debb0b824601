import math

import pytest
import torch

from fastgen.objectives.adversarial import (
    AdversarialLoss,
    Hinge,
    LogRatio,
    NonSaturating,
    gradient_penalty,
    smoothness_penalty,
)
from fastgen.objectives.divergences import Divergence, ForwardKL, Jeffreys, JensenShannon, ReverseKL


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def test_generator_value_and_gradient():
    logits = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    loss = NonSaturating().generator(logits)
    loss.backward()
    assert abs(loss.item() - sum(softplus(-v) for v in logits.tolist()) / 3) < 1e-12
    expected = torch.tensor([-sigmoid(-v) / 3 for v in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-10, atol=0.0)


def test_discriminator_value_and_gradients():
    real = torch.tensor([-1.5, 0.0, 2.0, 0.3], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([0.7, -0.2], dtype=torch.float64, requires_grad=True)
    loss = NonSaturating().discriminator(real, fake)
    loss.backward()
    by_hand = sum(softplus(-v) for v in real.tolist()) / 4 + sum(softplus(v) for v in fake.tolist()) / 2
    assert abs(loss.item() - by_hand) < 1e-12
    torch.testing.assert_close(real.grad, -torch.sigmoid(-real.detach()) / 4, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(fake.grad, torch.sigmoid(fake.detach()) / 2, rtol=1e-10, atol=0.0)


def test_the_optimal_logit_is_the_log_density_ratio():
    """With p_real : p_fake = 3 : 1 at a point, the loss there is least at log 3."""
    logit = torch.tensor(math.log(3.0), dtype=torch.float64, requires_grad=True)
    # A confident logit on the other side switches that term off.
    loss = 3 * NonSaturating().discriminator(
        logit[None], torch.full((1,), -1e3, dtype=torch.float64)
    ) + NonSaturating().discriminator(torch.full((1,), 1e3, dtype=torch.float64), logit[None])
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


def test_hinge_by_hand():
    real = torch.tensor([[-0.5], [0.3], [2.0]], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([[-2.0], [0.1], [0.7]], dtype=torch.float64, requires_grad=True)
    loss = Hinge().discriminator(real, fake)
    assert abs(loss.item() - ((1.5 + 0.7) / 3 + (1.1 + 1.7) / 3)) < 1e-12
    slopes = torch.autograd.grad(loss, (real, fake))
    assert [slope.flatten().mul(3).tolist() for slope in slopes] == [[-1.0, -1.0, 0.0], [0.0, 1.0, 1.0]]
    assert torch.autograd.grad(Hinge().generator(fake), fake)[0].mul(3).flatten().tolist() == [-1.0, -1.0, -1.0]


@pytest.mark.parametrize("loss", [NonSaturating(), Hinge(), LogRatio(JensenShannon())])
def test_samples_may_have_weights(loss: AdversarialLoss):
    """The i-th real and the i-th fake sample have the same; none is one for each; the gradient is that of the sum."""
    g = torch.Generator().manual_seed(3)
    real, fake = (torch.randn(4, 3, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    weight = torch.tensor([0.0, 0.25, 1.0, 3.0], dtype=torch.float64)
    for found, rows in (
        (lambda *w: loss.generator(fake, *w), lambda k: loss.generator(fake[k])),
        (lambda *w: loss.discriminator(real, fake, *w), lambda k: loss.discriminator(real[k], fake[k])),
    ):
        one, expected = found(weight), sum(weight[k] * rows([k]) for k in range(4)) / 4
        torch.testing.assert_close(one, expected)
        slopes = [torch.autograd.grad(v, (real, fake), allow_unused=True, retain_graph=True) for v in (one, expected)]
        for a, b in zip(*slopes, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)
        torch.testing.assert_close(found(), found(torch.ones(4)))


@pytest.mark.parametrize("divergence", [ReverseKL(), JensenShannon(), ForwardKL(), Jeffreys()])
def test_the_log_ratio_of_two_gaussians_gives_the_gradient_of_the_divergence(divergence: Divergence):
    """Samples x = m + s z against N(0, 1), by quadrature over z: E -h(r) D'(x) dx is the derivative of D_f in m, s.

    The ratio stays within its bounds for the m, s chosen, up to tails that weigh nothing.
    """
    z = torch.linspace(-9.0, 9.0, 40001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square())
    density = density / density.sum()

    def log_ratio(x: torch.Tensor, m: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return -0.5 * x.square() + 0.5 * ((x - m) / s).square() + s.log()

    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, 1.1)]
    m, s = values
    whole = (density * divergence.generator(log_ratio(m + s * z, m, s).exp())).sum()
    expected = torch.autograd.grad(whole, values)
    logits = log_ratio(m + s * z, m.detach(), s.detach())  # the discriminator's own parameters are constants
    weight = divergence.weight(logits.detach().exp())
    found = torch.autograd.grad(-(density * weight * logits).sum(), values)
    for one, other in zip(found, expected, strict=True):
        assert abs(one - other) < 1e-6 * abs(other) + 1e-9
    bounded = LogRatio(divergence).generator(logits[15000:25001, None])
    torch.testing.assert_close(bounded, -(weight * logits)[15000:25001].mean())
