"""The transformer's own properties."""

from __future__ import annotations

import pytest
import torch

from fastgen.denoisers.networks.dit import DiT, grid_positions
from fastgen.errors import UserError
from fastgen.processes import EDM, RectifiedFlow


def test_default_parametrisation_is_the_velocity_of_rectified_flow():
    network = DiT(width=16, depth=2, heads=2)
    assert isinstance(network.process, RectifiedFlow) and network.prediction == "velocity"
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.9])
    # adaLN-zero and the zero head: no velocity at first.
    torch.testing.assert_close(network(x_t, t).x0, x_t)


def test_other_prediction_kind():
    network = DiT(EDM(), "x0", width=16, depth=1, heads=2)
    assert not bool(network(torch.randn(2, 1, 8, 8), torch.ones(2)).x0.any())


def test_positions_are_distinct():
    positions = grid_positions(16, 4)
    assert positions.shape == (16, 16)
    assert float((torch.cdist(positions, positions) + torch.eye(16)).min()) > 0.1


def test_patches_keep_their_place():
    """With no blocks a pixel of the output depends on its own patch only, and each patch gives its own pixels."""
    network = DiT(width=16, depth=0, heads=2, patch=4, channels=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_t = torch.randn(1, 3, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(network.predict(x_t, torch.tensor([0.5]), {})[0, :, 4:, :4].sum(), x_t)
    assert bool(grad[0, :, 4:, :4].all())
    grad[0, :, 4:, :4] = 0
    assert not bool(grad.any())


def test_wrong_sizes():
    with pytest.raises(UserError, match="patch 3"):
        DiT(patch=3)
    with pytest.raises(UserError, match="width 30"):
        DiT(width=30, heads=4)
