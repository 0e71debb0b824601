"""The Embedding Loss by hand, and its random networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from every_method import fit, make
from toys import CLASSES, FreeData, build, trainer

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import EL
from fastgen.extras.embedding_loss import embedded
from fastgen.methods import DMD2, LCM
from fastgen.objectives.mmd import LinearKernel
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


def part(step: int = 0) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train", step=step))


def made(**kwargs):
    method = build(DMD2, extras=[EL(0.7, networks=2, depth=2, width=5, unbiased=False, **kwargs)]).double()
    method.configure_model()
    return method.double()


def test_value_and_gradient_by_hand():
    method, piece = made(), part(step=3)
    value = method.losses("student", piece)["embedding"]
    x = piece.rollouts["student"].x0
    (found,) = torch.autograd.grad(value, x, retain_graph=True)
    own = x.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for number in range(2):
        means = []
        for samples in (own, piece.x0):
            hidden, layers = samples, []
            for weight, bias in method.extras[0].weights((2,), (method.seed, 3, number), own):
                hidden = F.leaky_relu(hidden @ weight.T + bias, 0.2)
                layers.append(hidden)
            means.append(torch.cat(layers, 1).mean(0) / 10**0.5)
        total = total + 0.7 / 2 * (means[0] - means[1]).square().sum()
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(found, torch.autograd.grad(total, own)[0])


def test_data_and_student_alike_ask_for_nothing():
    method, piece = made(), part()
    x = method.rollout(piece, "student").x0
    piece.x0 = x.detach()
    value = method.extras[0].losses(method, "student", piece)["embedding"]
    (gradient,) = torch.autograd.grad(value, x)
    assert value.abs() < 1e-14 and gradient.abs().max() < 1e-14


def test_networks_are_functions_of_the_iteration():
    extra, like = EL(width=3, depth=2), torch.zeros(1, dtype=torch.float64)
    one, same, other = (extra.weights((2,), keys, like)[1][0] for keys in ((0, 1, 0), (0, 1, 0), (0, 2, 0)))
    assert torch.equal(one, same) and not torch.isclose(one, other).any()
    values = {
        renewed: [made(renewed=renewed).losses("student", part(s))["embedding"] for s in (0, 1)] for renewed in (0, 1)
    }
    assert not torch.isclose(*values[1])


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 2, 8, 6)], ids=["images", "videos"])
def test_pictures(shape):
    extra, x = EL(width=4, depth=2), torch.randn(5, *shape)
    features = embedded(x, extra.weights(shape, (0, 0, 0), x))
    assert features.shape == (5, 8) and features.isfinite().all()
    assert EL(kernel=LinearKernel()).kernel == LinearKernel()


def test_it_trains_beside_a_consistency_model_and_needs_data():
    metrics = fit(make(LCM, extras=[EL(networks=2)]), 2)
    assert metrics["student/embedding"] > 0
    with pytest.raises(UserError, match="EL needs real samples"):
        trainer(1).fit(make(DMD2, extras=[EL()]), FreeData(batch_size=4))
    with pytest.raises(UserError, match="two samples or more"):
        fit(make(DMD2, extras=[EL()]), 1, batch_size=1)
