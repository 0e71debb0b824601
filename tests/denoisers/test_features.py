"""Taps and discriminator heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.features import DiscriminatorHead, tap
from fastgen.errors import UserError
from fastgen.processes import EDM


class Pair(nn.Module):
    """Gives its answers as a tuple and as a mapping."""

    def __init__(self):
        super().__init__()
        self.as_tuple = Tupled()
        self.as_dict = Mapped()

    def forward(self, x):
        return self.as_dict(self.as_tuple(x)[0][0])["sample"]


class Tupled(nn.Module):
    def forward(self, x):
        return [2 * x], None


class Mapped(nn.Module):
    def forward(self, x):
        return {"sample": 3 * x}


def test_tap_records_and_lets_go():
    network = UNet(EDM())
    x_t, t = torch.randn(2, 1, 8, 8), torch.ones(2)
    with tap(network, ["mid", "down.0.0", "stem"]) as features:
        assert features == {}
        network(x_t, t)
    assert {path: tuple(value.shape) for path, value in features.items()} == {
        "mid": (2, 32, 4, 4),
        "down.0.0": (2, 16, 8, 8),
        "stem": (2, 16, 8, 8),
    }
    first = features["stem"]
    network(x_t + 1, t)
    assert features["stem"] is first
    assert not network.stem._forward_hooks


def test_tapped_features_carry_gradients():
    network = UNet(EDM())
    x_t = torch.randn(2, 1, 8, 8, requires_grad=True)
    with tap(network, ["mid"]) as features:
        network(x_t, torch.ones(2))
    (grad,) = torch.autograd.grad(features["mid"].sum(), x_t)
    assert bool(grad.any())


def test_hooks_are_removed_after_an_error():
    network = UNet(EDM())
    with pytest.raises(RuntimeError), tap(network, ["mid"]):
        raise RuntimeError
    assert not network.mid._forward_hooks
    with pytest.raises(UserError), tap(network, ["mid", "nowhere"]):
        pass
    assert not network.mid._forward_hooks


def test_first_tensor_of_tuples_and_mappings():
    network, x = Pair(), torch.ones(2)
    with tap(network, ["as_tuple", "as_dict"]) as features:
        network(x)
    assert torch.equal(features["as_tuple"], 2 * x) and torch.equal(features["as_dict"], 6 * x)


def test_tap_on_a_diffusers_network():
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    with tap(network, ["", "mid_block", "down_blocks.0"]) as features:
        output = network(torch.randn(2, 1, 8, 8), torch.ones(2)).sample
    assert features[""] is output
    assert features["mid_block"].shape == (2, 16, 4, 4) and features["down_blocks.0"].shape == (2, 8, 4, 4)


def test_unknown_path_names_neighbours():
    with pytest.raises(UserError, match=r"no layer 'midd'.*'mid'"), tap(UNet(EDM()), ["midd"]):
        pass


@pytest.mark.parametrize(
    "shape", [(32, 8, 8), (32, 4, 4), (32, 2, 2), (32, 1, 1), (24, 7, 5), (20, 1, 6), (16, 16), (1, 24), (64,), (3,)]
)
def test_head_shapes(shape):
    torch.manual_seed(0)
    head = DiscriminatorHead(shape)
    features = torch.randn(3, *shape, requires_grad=True)
    logits = head(features)
    assert logits.shape == (3,) and logits.std().item() > 0
    (grad,) = torch.autograd.grad(logits[1], features)
    assert bool(grad[1].any()) and not bool(grad[0].any())


def test_head_width_and_dtype():
    head = DiscriminatorHead((8, 4, 4), width=16)
    assert head.logit.in_features == 16
    assert [m.out_channels for m in head.body if isinstance(m, nn.Conv2d)] == [16, 16]
    assert head(torch.randn(2, 8, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32
    assert DiscriminatorHead((5, 8), width=3).logit.in_features == 3


def test_tokens_count_alike():
    """The logit of tokens (B, L, C) is that of their mean after the body: linear in it, whatever their order."""
    torch.manual_seed(0)
    head, tokens = DiscriminatorHead((5, 8)), torch.randn(2, 5, 8)
    torch.testing.assert_close(head(tokens), head(tokens.flip(1)))
    torch.testing.assert_close(head(tokens), torch.stack([head(tokens[:, i : i + 1]) for i in range(5)]).mean(0))


def test_head_refuses_other_ranks():
    with pytest.raises(UserError, match=r"\(2, 3, 4, 5\)"):
        DiscriminatorHead((2, 3, 4, 5))


def test_head_separates_two_laws():
    torch.manual_seed(0)
    head = DiscriminatorHead((8, 4, 4))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(40):
        logits = head(torch.cat([torch.randn(32, 8, 4, 4) + 0.5, torch.randn(32, 8, 4, 4)]))
        target = torch.arange(64).lt(32).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(((logits > 0) == (target > 0)).float().mean()) > 0.9
