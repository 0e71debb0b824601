"""A sharded network whose later layers are left out gathers, frees and reduces as if they had been called."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.wrappers.features import tap
from fastgen.processes import RectifiedFlow
from fastgen.sharding import blocks, whole


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process, in which sharding does all that it does in larger ones."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def outcome(network: Denoiser, rest: Any) -> dict[str, Tensor]:
    """Features of two calls, one backward pass through both, then an ordinary call with its own."""
    g = torch.Generator().manual_seed(1)
    found = {}
    points = [torch.randn(2, 1, 8, 8, generator=g).requires_grad_() for _ in range(2)]
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    total = torch.zeros(())
    for x in points:
        with tap(network, ["blocks.1"], rest) as features:
            network(x, t)
        total = total + features["blocks.1"].square().sum()
    total.backward()
    found |= {f"x{i}": x.grad for i, x in enumerate(points) if x.grad is not None}
    found |= {name: whole(p.grad) for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    value = network(points[0].detach(), t).value
    value.square().sum().backward()
    found |= {f"after {name}": whole(p.grad) for name, p in network.named_parameters() if p.grad is not None}
    return found | {"value": value.detach()}


@pytest.mark.parametrize("rest", ["left out", "without graph"])
def test_equals_the_whole_network(alone: None, rest: str):
    torch.manual_seed(0)
    network = DiT(RectifiedFlow(), "velocity", 1, 8, 4, width=16, depth=4, heads=2)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.2)
    expected = outcome(copy.deepcopy(network), "computed")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for part in (*blocks(network), network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    found = outcome(network, rest)
    assert {"x0", "x1", "value"} < found.keys()
    for name, value in found.items():
        if value.any():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    missing = {name for name, value in expected.items() if name not in found and bool(value.any())}
    assert not missing
