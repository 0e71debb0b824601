"""Layers after the last feature that is read are left out, or get no graph: the features and their gradients stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoisers.test_family_inputs import Build, adapted, build, inputs  # noqa: F401  a fixture
from torch import Tensor, nn

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.features import tap
from fastgen.denoisers.wrappers.on_process import OnProcess
from fastgen.processes import EDM, RectifiedFlow, TrigFlow
from fastgen.sharding import blocks

OURS: dict[str, Callable[[], Denoiser]] = {
    "UNet": lambda: UNet(EDM(), num_classes=3),
    "DiT": lambda: DiT(RectifiedFlow(), "velocity", 1, 8, 4, width=32, depth=4, num_classes=3),
    "MLP": lambda: MLP(EDM(), width=8, depth=3, num_classes=3),
}


def read(network: Denoiser, asked: Denoiser, rest: Any, point: tuple[Any, ...]) -> tuple[list[Tensor], Tensor]:
    """The feature, its gradients to the point and to what is trained, and the prediction."""
    x, t, _, condition = point
    x = x.clone().requires_grad_()
    trained = [p for p in asked.parameters() if p.requires_grad]
    path = re.sub(r"blocks\.\d+", "blocks.0", network.backbone.feature_path)  # tiny networks end with the middle block
    with tap(network.backbone, [path], rest) as features:
        value = asked(x, t, condition).value
    gradients = torch.autograd.grad(features[path].square().sum(), [x, *trained], allow_unused=True)
    return [features[path], *(g for g in gradients if g is not None)], value


def check(network: Denoiser, asked: Denoiser, point: tuple[Any, ...]) -> None:
    called: list[nn.Module] = []
    handles = [
        block.register_forward_hook(lambda block, *_: called.append(block)) for block in blocks(network.backbone)
    ]
    expected, value = read(network, asked, "computed", point)
    assert len(expected) > 1 and bool(expected[1].any()), "a gradient reaches the point"
    everything, counts = len(called), []
    for rest in ("without graph", "left out"):
        called.clear()
        found, other = read(network, asked, rest, point)
        counts.append(len(called))
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        assert torch.is_grad_enabled() and other.shape == value.shape
        if rest == "without graph":
            torch.testing.assert_close(other, value.detach(), rtol=1e-6, atol=1e-7)
    assert counts[0] == everything > counts[1], "blocks were left out"
    for handle in handles:
        handle.remove()
    again, last = read(network, asked, "computed", point)
    assert torch.equal(last, value) and torch.equal(again[0], expected[0]), "and nothing is left behind"
    assert not any(block._forward_pre_hooks for block in blocks(network.backbone))


@pytest.mark.parametrize("name", OURS)
def test_our_networks(name: str):
    torch.manual_seed(0)
    network = OURS[name]()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    check(network, network, inputs(network))
    check(network, OnProcess(network, TrigFlow()), inputs(network))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_families_whole_and_as_adapters(build: Build, checkpointing: bool):  # noqa: F811
    network = build(gradient_checkpointing=checkpointing).requires_grad_(True).train()
    check(network, network, inputs(network))
    base = build(gradient_checkpointing=checkpointing).train()
    role = adapted(base).train()
    x, t, _, condition = inputs(base)
    check(role, role, (x, t, None, condition))


class ByName(Denoiser):
    """A network that keeps its layers in a dict, as EDM's U-Nets do."""

    def __init__(self) -> None:
        super().__init__(EDM(), "x0", (4,))
        self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("first", "read", "last")})

    def predict(self, x_t: Tensor, t: Tensor, condition: Any, s: Tensor | None = None) -> Tensor:
        for layer in self.layers.values():
            x_t = layer(x_t)
        return x_t


def test_layers_kept_by_name():
    network, x, t = ByName(), torch.ones(2, 4), torch.ones(2, dtype=torch.float64)
    called: list[nn.Module] = []
    network.layers["last"].register_forward_hook(lambda layer, *_: called.append(layer))
    with tap(network, ["layers.read"], "without graph") as features:
        assert not network(x, t).value.requires_grad and features["layers.read"].requires_grad
    assert called
    with tap(network, ["layers.read"], "left out") as again:
        network(x, t)
    assert len(called) == 1 and torch.equal(again["layers.read"], features["layers.read"])
