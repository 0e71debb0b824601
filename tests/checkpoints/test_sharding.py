"""What sharding needs of networks, without processes."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fastgen.denoisers import MLP, DiT, UNet
from fastgen.denoisers.wrappers.features import feature_shapes, tap
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.processes import EDM
from fastgen.sharding import blocks, gathered, parameters_without_storage, sharded_like
from fastgen.strategies import FirstBatches


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((2,), 7.0))


def test_parameters_without_storage_leave_the_rest_real():
    with parameters_without_storage():
        module = Tied()
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module.second.weight is module.first.weight
    assert torch.equal(module.scale, torch.tensor([7.0, 7.0]))
    assert all(parameter.is_meta for parameter in copy.deepcopy(module).parameters())
    assert not any(parameter.is_meta for parameter in Tied().parameters())


def test_features_have_shapes_without_weights():
    for build in (
        lambda: UNet(EDM(), width=8, num_classes=10),
        lambda: DiT(EDM(), channels=1, resolution=8, width=16, depth=2, heads=2),
        lambda: MLP(EDM(), width=8, depth=2),
    ):
        with parameters_without_storage():
            empty = build()
        real = build()
        path = real.feature_path
        assert feature_shapes(empty, [path]) == feature_shapes(real, [path])
        adapted = LoRA(rank=2).attach(empty)
        assert feature_shapes(adapted, [path]) == feature_shapes(real, [path])
        assert all(parameter.is_meta for parameter in (*empty.parameters(), *adapted.parameters()))


def test_blocks_are_the_members_of_the_outermost_lists():
    unet = UNet(EDM(), width=8, num_classes=10)
    members = [block for stage in (*unet.down, *unet.up) for block in stage]
    assert [id(block) for block in blocks(unet)] == [id(block) for block in members]
    mlp = MLP(EDM(), width=8, depth=3)
    assert [id(block) for block in blocks(mlp)] == [id(block) for block in mlp.blocks]
    assert list(blocks(nn.Linear(2, 2))) == []


def test_features_join_the_prediction():
    """A sharded network needs its weights again for the gradient of all that it returns."""
    network = MLP(EDM(), width=8, depth=2)
    x, t = torch.randn(3, 2), torch.full((3,), 2.0, dtype=torch.float64)
    with tap(network, ["blocks.0"]) as features:
        prediction = network(x, t)
    assert prediction.features["blocks.0"] is features["blocks.0"]
    assert network(x, t).features == {}


def test_plain_tensors_pass_unchanged():
    tensor, state = torch.randn(3), {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 0.1}]}
    assert sharded_like(tensor, torch.zeros(3)) is tensor and sharded_like(tensor, None) is tensor
    kept = gathered(state, keep=True)
    assert kept == state and kept["state"][0]["step"] is state["state"][0]["step"]


def test_first_batches():
    loader = FirstBatches(range(5), 3)
    assert len(loader) == 3 and list(loader) == list(loader) == [0, 1, 2]
