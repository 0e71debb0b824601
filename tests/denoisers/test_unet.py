"""The U-Net's own properties."""

from __future__ import annotations

import pytest
import torch

from fastgen.denoisers.networks.unet import UNet
from fastgen.errors import UserError
from fastgen.processes import EDM, RectifiedFlow


def test_digits_size():
    network = UNet(EDM(), num_classes=10)
    assert 90_000 < sum(p.numel() for p in network.parameters()) < 200_000
    assert network.sample_shape == (1, 8, 8)


def test_starts_as_the_skip_connection():
    network = UNet(EDM(), sigma_data=0.5)
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    expected = torch.tensor([0.5, 0.25 / 4.25]).reshape(2, 1, 1, 1) * x_t
    torch.testing.assert_close(network(x_t, t).x0, expected)


def test_same_network_on_another_process():
    edm, flow = UNet(EDM()), UNet(RectifiedFlow())
    torch.manual_seed(0)
    for parameter in edm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    flow.load_state_dict(edm.state_dict())
    edm, flow = edm.double(), flow.double()
    x_t, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0.5, 0.9], dtype=torch.float64)
    expected = edm(*flow.process.warp(x_t, t, edm.process)).x0
    torch.testing.assert_close(flow(x_t, t).x0, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 3, "resolution": 16, "multipliers": (1, 2, 2), "attention_resolutions": (8, 4)},
        {"blocks": 2, "dropout": 0.1},
        {"resolution": 4, "multipliers": (1,), "width": 12},
        {"width": 40, "multipliers": (1, 3)},
    ],
)
def test_other_shapes(options):
    network = UNet(EDM(), **options)
    x_t = torch.randn(2, *network.sample_shape)
    assert network(x_t, torch.ones(2)).x0.shape == x_t.shape


def test_dropout_only_in_training():
    network = UNet(EDM(), dropout=0.5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x_t, t = torch.randn(2, 1, 8, 8), torch.ones(2)
    assert not torch.equal(network.predict(x_t, t, {}), network.predict(x_t, t, {}))
    network.eval()
    assert torch.equal(network.predict(x_t, t, {}), network.predict(x_t, t, {}))


def test_resolution_must_be_divisible():
    with pytest.raises(UserError, match="resolution 6 is not divisible by 4"):
        UNet(EDM(), resolution=6, multipliers=(1, 1, 1))


def test_learns_a_constant():
    """A few steps reduce the denoising loss of a one-image data set well below a half."""
    torch.manual_seed(0)
    network = UNet(EDM(), width=8)
    image = torch.rand(1, 1, 8, 8) * 2 - 1
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        t = torch.exp(torch.randn(16) * 1.2 - 1.2)
        prediction = network(network.process.add_noise(image.expand(16, -1, -1, -1), torch.randn(16, 1, 8, 8), t), t)
        weight = ((t**2 + 0.25) / (0.5 * t) ** 2).reshape(-1, 1, 1, 1)
        loss = (weight * (prediction.x0 - image).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
