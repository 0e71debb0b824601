"""Jacobian-vector products against central differences, through attention and dropout."""

from __future__ import annotations

import pytest
import torch
from toys import network

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.on_process import OnProcess
from fastgen.objectives.tangents import FiniteDifference, ForwardMode
from fastgen.processes import EDM, VP, RectifiedFlow, TrigFlow


def lively(denoiser: Denoiser) -> Denoiser:
    """The network in fp64 with no weight at zero, so that every path matters."""
    g = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    return denoiser.double()


NETWORKS = {
    "mlp_edm": lambda: lively(network(0, EDM(), second_time=True)),
    "mlp_flow": lambda: lively(network(0, RectifiedFlow(), second_time=True)),
    "unet_dropout": lambda: lively(UNet(EDM(), attention_resolutions=(4,), dropout=0.3, second_time=True)),
    "dit": lambda: lively(DiT(width=16, depth=2, heads=2, second_time=True)),
    "vp": lambda: lively(DiT(VP(), "noise", width=16, depth=2, heads=2, second_time=True)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("process", [RectifiedFlow(), TrigFlow(0.5)], ids=["flow", "trig"])
def test_forward_mode_is_the_central_difference(name: str, process: RectifiedFlow | TrigFlow):
    denoiser = NETWORKS[name]().train()
    view = OnProcess(denoiser, process)
    g = torch.Generator().manual_seed(1)
    t = process.time(torch.tensor([0.4, 1.0, 3.0], dtype=torch.float64))
    s = process.time(torch.tensor([0.1, 0.0, 3.0], dtype=torch.float64))
    x, velocity = (torch.randn(3, *denoiser.sample_shape, generator=g, dtype=torch.float64) for _ in range(2))
    label = {"label": torch.tensor([0, 1, 2])} if denoiser.num_classes else {}

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return view(x, t, label, s).velocity

    scale = torch.tensor([-0.5, 1.0, 2.0], dtype=torch.float64)
    torch.manual_seed(5)
    exact = ForwardMode().product(field, x, t, velocity, scale, 0.5 * t, process.t_max)
    near = FiniteDifference(1e-4).product(field, x, t, velocity, scale, 0.5 * t, process.t_max)
    assert not exact.requires_grad and not near.requires_grad
    assert (exact - near).norm() < 1e-5 * exact.norm()
    # The generator is where it was: the next forward has the masks of the product.
    torch.manual_seed(5)
    expected = field(x, t)
    torch.manual_seed(5)
    ForwardMode().product(field, x, t, velocity, scale, 0.5 * t, process.t_max)
    FiniteDifference().product(field, x, t, velocity, scale, 0.5 * t, process.t_max)
    assert torch.equal(field(x, t), expected)


def test_finite_differences_stay_inside():
    asked = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t)
        return x * t[:, None]

    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    x, v = torch.ones(3, 1, dtype=torch.float64), torch.full((3, 1), 2.0, dtype=torch.float64)
    found = FiniteDifference(0.01).product(field, x, t, v, torch.ones(3, dtype=torch.float64), torch.zeros_like(t), 1.0)
    assert torch.cat(asked).min() == 0.0 and torch.cat(asked).max() == 1.0
    assert (found - (2 * t + 1)[:, None]).abs().max() < 0.03, "d(x t)/dt = v t + x"
