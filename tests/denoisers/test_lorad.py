"""LoRaD: rotations of pairs of columns, shared, merged and refused where they are no LoRA (fp64)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from toys import CLASSES, StirredLoRaD, network

from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.denoisers.wrappers.lorad import LoRaD, Rotation, rotated
from fastgen.errors import UserError

LABEL = torch.arange(4) % CLASSES
T = torch.full((4,), 2.0, dtype=torch.float64)


def stirred(rank: int = 3) -> tuple[AdaptedDenoiser, Tensor]:
    base = network(0).double().requires_grad_(False)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return StirredLoRaD(rank=rank, layers="*").attach(base).double(), x


def test_each_pair_of_columns_is_turned():
    w = torch.randn(3, 5, dtype=torch.float64)
    angles = torch.randn(3, 2, dtype=torch.float64)
    found = rotated(w, angles)
    for row in range(3):
        for pair in range(2):
            a, (p, q) = angles[row, pair], w[row, 2 * pair : 2 * pair + 2]
            expected = torch.stack([p * a.cos() - q * a.sin(), p * a.sin() + q * a.cos()])
            torch.testing.assert_close(found[row, 2 * pair : 2 * pair + 2], expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(found[:, 4], w[:, 4]), "the odd one stays"
    torch.testing.assert_close(found.norm(), w.norm(), rtol=1e-12, atol=0)
    torch.testing.assert_close(rotated(found, -angles), w, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(rotated(w, angles + 2 * math.pi), found, rtol=1e-10, atol=1e-12)


def test_the_gradient_in_the_angles():
    w, x = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    angles = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: x @ rotated(w, v).T, angles)


def test_at_first_nothing_is_changed_and_the_base_never_is():
    base = network(0).requires_grad_(False)
    before = {name: p.clone() for name, p in base.named_parameters()}
    role = LoRaD(4, layers="*").attach(base)
    x = torch.randn(4, 2)
    assert torch.equal(role(x, T, {"label": LABEL}).x0, base(x, T, {"label": LABEL}).x0)
    angle = next(m for m in role.modules() if isinstance(m, Rotation)).angles()
    assert angle.abs().max() == 0.0
    assert all(torch.equal(before[name], p) for name, p in base.named_parameters())
    assert not any("layer" in name for name, _ in role.named_parameters())


def test_merged_it_is_the_same_function():
    role, x = stirred()
    adapted = role(x, T, {"label": LABEL}).x0
    merged = role.merged()
    torch.testing.assert_close(merged(x, T, {"label": LABEL}).x0, adapted, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(adapted, role.base(x, T, {"label": LABEL}).x0)
    for path in role.by_path():
        own, turned = (n.get_submodule(path).weight for n in (role.base, merged))
        torch.testing.assert_close(own.norm(), turned.norm(), rtol=1e-10, atol=0)


def test_a_copy_shares_the_base_and_not_the_angles():
    role, x = stirred()
    other = copy.deepcopy(role)
    assert other.base is role.base
    assert torch.equal(other(x, T, {"label": LABEL}).x0, role(x, T, {"label": LABEL}).x0)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    assert not torch.equal(other(x, T, {"label": LABEL}).x0, role(x, T, {"label": LABEL}).x0)


def test_the_count_of_parameters():
    base = network(0)
    role = LoRaD(3, layers="*", without="head*").attach(base)
    assert role.by_path() and not any(path.startswith("head") for path in role.by_path())
    for path, change in role.by_path().items():
        layer = base.get_submodule(path)
        assert sum(p.numel() for p in change.parameters()) == 3 * (layer.out_features + layer.in_features // 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"layers": "*block7*"}, "fits no linear layer"), ({"layers": "*", "without": "*"}, "leaves no layer")],
)
def test_patterns_that_cannot_be_meant_are_refused(options, message: str):
    with pytest.raises(UserError, match=message):
        LoRaD(2, **options).attach(network(0))
