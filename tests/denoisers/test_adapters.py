"""Adapters on a shared network against separate copies with merged weights, in fp64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoisers.tiny_unet import DiffusersUNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastgen.denoisers import MLP, DiT, LoRA, UNet
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.features import tap
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser, LowRank
from fastgen.errors import UserError
from fastgen.processes import EDM, VP

NETWORKS: dict[str, Callable[[], Denoiser]] = {
    "mlp": lambda: MLP(EDM(), width=16, depth=2),
    "unet": lambda: UNet(EDM(), width=8, num_classes=3, attention_resolutions=(4,)),
    "dit": lambda: DiT(width=16, depth=2, heads=2, num_classes=3),
    "diffusers": lambda: DiffusersUNet(VP()),
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


def scramble(module: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=g))


def frozen(make: Callable[[], Denoiser], seed: int = 0) -> Denoiser:
    network = make().double()
    scramble(network, seed)
    return network.requires_grad_(False).eval()


def adapted(base: Denoiser, seed: int, **kwargs: Any) -> AdaptedDenoiser:
    role = LoRA(**({"rank": 3, "alpha": 5.0} | kwargs)).attach(base).double()
    scramble(role, seed)
    return role


def checkpointed(network: nn.Module) -> None:
    """Let the inner modules of a network recompute their activations in the backward pass."""
    inner = [m for n, m in network.named_modules() if n.count(".") == 1 and list(m.children())]
    assert inner
    for module in inner:
        forward = module.forward
        module.forward = lambda *a, forward=forward, **k: checkpoint(forward, *a, use_reentrant=False, **k)  # type: ignore[method-assign]


def inputs(network: Denoiser, count: int = 2) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(count, *network.sample_shape, generator=g, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5], dtype=torch.float64) * network.process.t_max
    return x, t, dict(network.example_condition(count))


@every_network
def test_the_base_is_untouched(make: Callable[[], Denoiser]):
    base = frozen(make)
    x, t, condition = inputs(base)
    names, weights, before = list(base.state_dict()), copy.deepcopy(base.state_dict()), base(x, t, condition).value
    role = LoRA(rank=3).attach(base).double()
    assert torch.equal(role(x, t, condition).value, before), "a new adapter has no effect"
    scramble(role, 1)
    assert not torch.allclose(role(x, t, condition).value, before)
    assert torch.equal(base(x, t, condition).value, before), "without the adapter the base is bit-equal"
    assert list(base.state_dict()) == names and all(torch.equal(v, weights[k]) for k, v in base.state_dict().items())
    assert not any(p.requires_grad for p in base.parameters()) and all(p.requires_grad for p in role.parameters())
    assert all(name.startswith("changes.") for name in role.state_dict())
    assert len(role.changes) == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in base.modules())


@every_network
def test_merging_gives_the_same_function(make: Callable[[], Denoiser]):
    base = frozen(make)
    role, (x, t, condition) = adapted(base, 1), inputs(base)
    merged = role.merged()
    torch.testing.assert_close(merged(x, t, condition).value, role(x, t, condition).value, rtol=1e-9, atol=1e-11)
    assert list(merged.state_dict()) == list(base.state_dict())


@every_network
@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("chain", ["student", "critic(student)", "critic(student) - teacher(student)", "features"])
def test_gradients_equal_those_of_separate_copies(make: Callable[[], Denoiser], recompute: bool, chain: str):
    """All roles share one base; the backward pass runs far from any ``with``, and roles follow each other in it."""
    teacher = frozen(make)
    student, critic = adapted(teacher, 1), adapted(teacher, 2, rank=2)
    copies = {"student": student.merged(), "critic": critic.merged(), "teacher": copy.deepcopy(teacher)}
    for network in (copies["student"], copies["critic"]):
        network.requires_grad_(True)
    shared: dict[str, Denoiser] = {"student": student, "critic": critic, "teacher": teacher}
    x, t, condition = inputs(teacher)
    if recompute:
        checkpointed(teacher)

    def loss(roles: dict[str, Denoiser]) -> Tensor:
        sample = roles["student"](x, t, condition).x0
        if chain == "student":
            return sample.square().sum()
        if chain == "features":  # the gradient enters in the middle of the critic
            with tap(roles["critic"].backbone, [teacher.feature_path]) as features:
                roles["critic"](sample, t, condition)
            return features[teacher.feature_path].square().sum() + sample.mean()
        gap = roles["critic"](sample, t, condition).x0
        if chain != "critic(student)":
            gap = gap - roles["teacher"](sample, t, condition).x0
        return (gap * (gap - sample)).sum()

    one, other = loss(shared), loss(copies)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    teacher(x, t, condition)  # another call in between must not matter
    one.backward()
    other.backward()
    for role in ("student", "critic"):
        network = shared[role]
        assert isinstance(network, AdaptedDenoiser)
        for path, change in network.by_path().items():
            reference = copies[role].get_submodule(path).weight.grad
            if reference is None:  # behind the tapped layer, or a role that does not take part
                assert all(p.grad is None for p in change.parameters())
                continue
            up, down = change.up.weight, change.down.weight
            for p, expected in (
                (up, change.scale * reference.flatten(1) @ down.flatten(1).T),
                (down, change.scale * up.flatten(1).T @ reference.flatten(1)),
            ):
                assert p.grad is not None, path
                torch.testing.assert_close(p.grad.flatten(1), expected, rtol=1e-7, atol=1e-9)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_context_makes_calls_of_the_base_calls_of_the_role():
    base = frozen(NETWORKS["mlp"])
    first, second, (x, t, _) = adapted(base, 1), adapted(base, 2), inputs(base)
    with first.active():
        assert torch.equal(base(x, t).value, first(x, t).value)
        with second.active():
            assert torch.equal(base(x, t).value, second(x, t).value)
        assert torch.equal(base(x, t).value, first(x, t).value)
    bare = base(x, t).value
    with pytest.raises(RuntimeError), first.active():
        raise RuntimeError
    assert torch.equal(base(x, t).value, bare), "an exception leaves the base bare"


def test_copies_share_the_base_and_nothing_else():
    base = frozen(NETWORKS["mlp"])
    role, (x, t, _) = adapted(base, 1).train(), inputs(base)
    twin = copy.deepcopy(role)
    assert twin.base is base and twin.training and torch.equal(twin(x, t).value, role(x, t).value)
    scramble(role, 3)
    assert not torch.allclose(twin(x, t).value, role(x, t).value)
    other = copy.deepcopy(base)  # e.g. a discriminator that begins as the teacher
    with role.active():
        assert torch.equal(other(x, t).value, base.__class__.forward(other, x, t).value)
        assert not torch.allclose(other(x, t).value, base(x, t).value)


def test_layers_are_chosen_by_pattern():
    base = frozen(NETWORKS["mlp"])
    role = LoRA(rank=2, layers=["blocks.*.out", "head"]).attach(base)
    assert set(role.by_path()) == {"blocks.0.out", "blocks.1.out", "head"}
    assert all(isinstance(change, LowRank) for change in role.by_path().values())
    with pytest.raises(UserError, match="fits no linear layer"):
        LoRA(layers=["*.to_q"]).attach(base)
    with pytest.raises(UserError, match="rank"):
        LoRA(rank=0)


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_adapters_learn_in_fp32_on_a_base_in_bf16(name: str):
    """Steps of 1e-4 of a weight would vanish in bf16; what is computed is bf16 all the same."""
    role = LoRA(rank=2).attach(frozen(NETWORKS[name]).to(torch.bfloat16))
    role.add_second_time()
    scramble(role, 3)
    exact = copy.deepcopy(role).merged().float()
    role.to(torch.bfloat16)
    assert {parameter.dtype for parameter in role.parameters()} == {torch.float32}
    x_t, t, condition = inputs(role)
    x_t, seen = x_t.float(), []
    handle = next(iter(role.by_path().values())).register_forward_hook(lambda *args: seen.append(args[2].dtype))
    found = role(x_t, t, condition).value
    handle.remove()
    assert seen == [torch.bfloat16]
    expected = exact(x_t, t, condition).value
    assert (found - expected).norm() < 0.03 * expected.norm()
    before = [parameter.detach().clone() for parameter in role.parameters()]
    for _ in range(10):
        with torch.no_grad():
            for parameter in role.parameters():
                parameter *= 1.0001
    for parameter, old in zip(role.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * 1.001, rtol=1e-5, atol=1e-9)


def test_grouped_convolutions_are_left_alone():
    class Grouped(Denoiser):
        def __init__(self) -> None:
            super().__init__(EDM(), "x0", (4, 2, 2))
            self.plain, self.grouped = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2)

        def predict(self, x_t, t, condition, s=None):
            return self.grouped(self.plain(x_t))

    assert set(LoRA(rank=2).attach(Grouped()).by_path()) == {"plain"}
    with pytest.raises(UserError, match="fits no linear layer"):
        LoRA(rank=2, layers=["grouped"]).attach(Grouped())


def test_a_change_is_scaled_by_alpha_over_rank():
    for alpha, scale in ((5.0, 1.25), (None, 1.0)):
        role = LoRA(rank=4, alpha=alpha).attach(frozen(NETWORKS["mlp"]))
        assert {change.scale for change in role.modules() if isinstance(change, LowRank)} == {scale}
