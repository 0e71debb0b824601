from __future__ import annotations

import torch

from fastgen.objectives.metrics import AbsoluteError, ElementwiseHuber, PseudoHuber, SquaredError
from fastgen.objectives.weights import EDMWeight, StepWeight
from fastgen.processes import EDM, VP
from fastgen.randomness import Draws
from fastgen.times import EasyTimes, GridTimes
from fastgen.times.easy import easy_ratio


def test_metrics():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.zeros(2, 2, dtype=torch.float64)
    assert torch.allclose(PseudoHuber()(x, y), torch.tensor([5.0, 0.0], dtype=torch.float64))
    huber = PseudoHuber(2.0)(x, y)
    assert torch.allclose(huber, torch.tensor([29.0**0.5 - 2.0, 0.0], dtype=torch.float64))
    elementwise = ElementwiseHuber(2.0)(x, y)[0]
    assert torch.allclose(elementwise, torch.tensor((13.0**0.5 + 20.0**0.5) / 2 - 2.0, dtype=torch.float64))
    assert SquaredError()(x, y).tolist() == [12.5, 0.0]
    assert SquaredError(0.5, "sum")(x, y).tolist() == [12.5, 0.0]
    assert AbsoluteError()(x, y).tolist() == [3.5, 0.0] and AbsoluteError("sum")(x, y).tolist() == [7.0, 0.0]
    assert torch.equal(PseudoHuber(2.0, per_element=True)(x, y), PseudoHuber(2.0 * 2**0.5)(x, y))
    PseudoHuber()(x, y).sum().backward()
    assert torch.allclose(x.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64)), "0 where they agree"


def test_pseudo_huber_is_a_normalised_tangent():
    """ECT's gradient is tau / sqrt(|tau|^2 + c'^2) with tau = difference / (t - r) and c' = c / (t - r)."""
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    step, c = 0.1, 0.05
    (PseudoHuber(c)(x, torch.zeros_like(x)) / step).sum().backward()
    tau = x.detach() / step
    torch.testing.assert_close(x.grad, tau / (tau.square().sum() + (c / step) ** 2).sqrt() / step)


def test_easy_ratio():
    """With q = 2 at stage 0 the ratio is 0 at small levels and 1/2 at large ones."""
    level = torch.tensor([0.0, 0.5, 1e3], dtype=torch.float64)
    assert torch.allclose(easy_ratio(level, 0), torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64))
    late = easy_ratio(level, 3)
    expected = 1 - (1 + 8 * torch.sigmoid(-level)) / 2**4
    assert torch.allclose(late, expected)
    assert torch.allclose(EDMWeight(0.5).between(torch.tensor([2.0]), torch.tensor([1.0])), torch.tensor([4.25]))
    assert StepWeight().between(torch.tensor([2.0]), torch.tensor([1.5])).item() == 2.0


def test_easy_times_on_any_process():
    draws = Draws(0, range(200), "test")
    law = EasyTimes(double=10)
    for update in (0, 35, 10**6):
        levels = []
        for process in (EDM(), VP()):
            times = law.sample(draws, process, update)
            assert bool((times.s == process.t_clean).all()) and bool((times.r <= times.t).all())
            levels.append((process.ratio(times.t), process.ratio(times.r)))
            if update == 10**6:
                inside = (times.t > 0) & (times.t < process.t_max)
                ratio = (levels[-1][1] / levels[-1][0])[inside]
                assert torch.allclose(ratio, torch.full_like(ratio, 0.999), atol=2e-3)
    assert [law.stage(update) for update in (0, 9, 10, 35)] == [0, 0, 1, 3]


def test_grid_times_are_those_of_lcm():
    times = GridTimes(50).sample(Draws(0, range(500), "test"), VP(), 0)
    assert set(times.t.tolist()) == {float(20 * i + 19) for i in range(50)}
    assert torch.equal(times.t - times.r, torch.full_like(times.t, 20.0))
    assert bool((times.r[times.t == 19] == VP.t_clean).all())
