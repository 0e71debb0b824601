import pytest
import torch

from fastgen.methods import TDM
from fastgen.objectives.distribution_matching import (
    dmd_gradient,
    guidance_gradient,
    mean_absolute_gap,
    pseudo_loss,
    vsd_gradient,
)
from fastgen.objectives.metrics import PseudoHuber, SquaredError
from fastgen.objectives.score_forms import DistanceForm, ScoreForm
from fastgen.processes import EDM, Prediction

FORMS = [kind() for kind in ScoreForm.__subclasses__()]


def images(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in seeds]


def test_pseudo_loss_is_half_the_mean_square_and_its_gradient_is_the_direction_over_all_elements():
    x, g = images(0, 1)
    x.requires_grad_()
    loss = pseudo_loss(x, g)
    loss.backward()
    assert abs(loss.item() - 0.5 * sum(v**2 for v in g.flatten().tolist()) / 120) < 1e-12
    torch.testing.assert_close(x.grad, g / 120, rtol=1e-10, atol=1e-14)


def test_pseudo_loss_ignores_the_graph_of_the_direction():
    x, g = images(0, 1)
    x.requires_grad_()
    pseudo_loss(x, g * x).backward()
    torch.testing.assert_close(x.grad, (g * x).detach() / 120, rtol=1e-10, atol=1e-14)


def test_normaliser_is_one_number_per_sample_over_all_other_axes():
    x, real = images(0, 1)
    gap = mean_absolute_gap(x.requires_grad_(), real)
    assert gap.shape == (3, 1, 1, 1) and not gap.requires_grad
    for i in range(3):
        by_hand = sum(abs(v) for v in (x[i] - real[i]).flatten().tolist()) / 40
        assert abs(gap[i].item() - by_hand) < 1e-12


def test_dmd_gradient_by_hand():
    x = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64)
    real = torch.tensor([[0.0, 0.0], [0.5, 4.0]], dtype=torch.float64)
    fake = torch.tensor([[3.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    # normalisers 1.5 and 2.
    expected = torch.tensor([[2.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(dmd_gradient(x, real, fake), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_the_weight_of_a_sample_multiplies_its_gradient(form: ScoreForm):
    x, real, fake = images(0, 1, 2)
    t, weight = torch.tensor([0.5, 2.0, 9.0], dtype=torch.float64), torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    found = []
    for given in (None, weight):
        y = x.clone().requires_grad_()  # the networks' answers move with their input
        made = [Prediction(EDM(), y, t, value + scale * y, "x0") for value, scale in ((real, 0.2), (fake, 0.3))]
        found.append(torch.autograd.grad(form(y, *made, given), y)[0])
    torch.testing.assert_close(found[1], weight.reshape(3, 1, 1, 1) * found[0], rtol=1e-9, atol=1e-12)
    assert all(bool(one.any()) for one in found[0])


def test_dmd_gradient_adds_no_epsilon():
    x, real, fake = (1e-9 * value for value in images(0, 1, 2))
    torch.testing.assert_close(dmd_gradient(x, real, fake), dmd_gradient(1e9 * x, 1e9 * real, 1e9 * fake))


def test_dmd_gradient_vanishes_where_the_networks_agree():
    x, real = images(0, 1)
    assert dmd_gradient(x, real, real).abs().max() == 0.0


def test_dmd_gradient_follows_the_teacher():
    """A step against the gradient moves towards the teacher and away from the critic."""
    x, real, fake = images(0, 1, 2)
    direction = dmd_gradient(x, real, fake)
    assert bool(((direction * (real - fake)).flatten(1).sum(1) < 0).all())


def test_only_a_perfect_match_is_zero():
    """0 / 0 is 0; a broken teacher or critic, and a difference over nothing, stay what they are and are skipped."""
    x, real, fake = images(0, 1, 2)
    x[0] = real[0] = fake[0]
    fake[1, 0, 0, 0] = float("nan")
    direction = dmd_gradient(x, real, fake)
    assert direction[0].abs().max() == 0.0
    assert bool(direction[1, 0, 0, 0].isnan()) and int(direction[1].isnan().sum()) == 1
    torch.testing.assert_close(direction[2], ((fake - real) / (x - real).abs().mean((1, 2, 3), keepdim=True))[2])
    x, real, fake = images(0, 1, 2)
    x[0] = real[0]
    assert bool(dmd_gradient(x, real, fake)[0].isinf().all())
    real[1, 0, 0, 0] = float("inf")
    assert not bool(dmd_gradient(x, real, fake)[1].isfinite().all())
    assert not bool(guidance_gradient(x, real, fake, 2.0, real)[1].isfinite().all())
    assert bool(guidance_gradient(x, fake, fake, 2.0, real)[0].eq(0.0).all())


def test_vsd_hides_nothing():
    real, fake = images(1, 2)
    ratio = torch.tensor([0.0, 1.0, float("inf")], dtype=torch.float64).reshape(3, 1, 1, 1)
    assert bool(vsd_gradient(real, fake, ratio).isfinite().all())
    real[1, 0, 0, 0] = float("nan")
    assert int(vsd_gradient(real, fake, ratio).isnan().sum()) == 1


def test_the_huber_form_of_a_perfect_match_has_no_gradient():
    x, form, t = images(0)[0].requires_grad_(), DistanceForm(), torch.ones(3, dtype=torch.float64)
    same, moved = (Prediction(EDM(), x.detach(), t, x0, "x0") for x0 in (x.detach(), x.detach() + 1.0))
    loss = form(x, same, same)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.item() == 0.0 and gradient.abs().max() == 0.0
    assert not bool(form(x, same, moved).isfinite())


def test_the_form_of_distances_has_the_metric_it_is_given():
    """Of a squared error the loss is ``mean g^2 / mean |x - real|`` of a sample, by hand; TDM hands its own on."""
    x, real, fake = images(0, 1, 2)
    made = [Prediction(EDM(), x, torch.ones(3, dtype=torch.float64), value, "x0") for value in (real, fake)]
    by_hand = (fake - real).square().mean((1, 2, 3)) / (x - real).abs().mean((1, 2, 3))
    torch.testing.assert_close(DistanceForm(SquaredError())(x, *made), by_hand.mean())
    metric = PseudoHuber(0.3)
    assert TDM(student=lambda: None, teacher=lambda: None, metric=metric).form == DistanceForm(metric)  # type: ignore
