"""What the small networks have in common."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.networks.preconditioning import time_features
from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.added_inputs import GuidanceInput
from fastgen.denoisers.wrappers.features import tap
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.errors import UserError
from fastgen.processes import EDM, VP, RectifiedFlow, TrigFlow
from fastgen.storage.files import save_tensors

NETWORKS = {
    "unet": lambda **kwargs: UNet(kwargs.pop("process", EDM()), width=8, **kwargs),
    "dit": lambda **kwargs: DiT(kwargs.pop("process", RectifiedFlow()), width=16, depth=2, heads=2, **kwargs),
    "mlp": lambda **kwargs: MLP(kwargs.pop("process", EDM()), width=16, depth=2, **kwargs),
}


@pytest.fixture(params=NETWORKS)
def make(request):
    return NETWORKS[request.param]


def awake(network: Denoiser) -> Denoiser:
    """The network with random numbers where it starts at zero, except in the second time adapter."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if not name.startswith("second_time.") and not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def batch(network: Denoiser, count: int = 4, dtype: torch.dtype = torch.float32):
    g = torch.Generator().manual_seed(0)
    x_t = torch.randn(count, *network.sample_shape, generator=g, dtype=dtype)
    t = torch.linspace(0.2, 0.8, count, dtype=torch.float64) * min(network.process.t_max, 2.0)
    label = torch.arange(count) % max(network.num_classes, 1)
    return x_t, t, {"label": label} if network.num_classes else {}


def test_shapes_dtypes_and_gradients(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    prediction = network(x_t, t, condition)
    assert prediction.x0.shape == x_t.shape and prediction.x0.dtype == torch.float32
    prediction.x0.square().mean().backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow(), TrigFlow()], ids=lambda p: type(p).__name__)
def test_every_process_up_to_pure_noise(make, process):
    network = awake(make(process=process))
    x_t, _, _ = batch(network, 2)
    answer = network.predict(x_t, torch.tensor([0.01, 1.0]) * process.t_max, {})
    assert bool(answer.isfinite().all())


def test_samples_do_not_influence_each_other(make):
    network = awake(make(num_classes=3)).double()
    x_t, t, condition = batch(network, dtype=torch.float64)
    whole = network(x_t, t, condition).value
    for i in range(len(t)):
        rows = slice(i, i + 1)
        alone = network(x_t[rows], t[rows], {"label": condition["label"][rows]}).value
        torch.testing.assert_close(alone, whole[rows], rtol=1e-10, atol=1e-12)


def test_time_and_label_matter(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    base = network.predict(x_t, t, condition)
    assert not torch.allclose(network.predict(x_t, 0.5 * t, condition), base, atol=1e-4)
    assert not torch.allclose(network.predict(x_t, t, {"label": condition["label"] + 1}), base, atol=1e-4)


def test_null_label(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    null = network.null_condition(condition)
    assert null["label"].tolist() == [3, 3, 3, 3]
    assert torch.equal(network.predict(x_t, t, null), network.predict(x_t, t, {}))
    assert network.label_embedding.num_embeddings == 4


def test_unconditional_networks_cannot_be_guided(make):
    network = make()
    assert network.null_condition({}) == {}
    with pytest.raises(UserError, match="guidance scale to 1"):
        network.null_condition({"label": torch.zeros(2, dtype=torch.int64)})


def test_second_time_is_refused_without_its_input(make):
    network = make()
    x_t, t, condition = batch(network)
    with pytest.raises(UserError, match="second_time: true"):
        network(x_t, t, condition, s=t)


def test_added_second_time_keeps_the_function_bit_for_bit(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    before = network.predict(x_t, t, condition)
    network.add_second_time()
    adapter = network.second_time
    network.add_second_time()
    assert network.second_time is adapter
    for s in (None, t, 0.3 * t, torch.full_like(t, network.process.t_clean)):
        assert torch.equal(network.predict(x_t, t, condition, s), before)
    torch.nn.init.normal_(adapter.out.weight)
    torch.testing.assert_close(network.predict(x_t, t, condition), network.predict(x_t, t, condition, t))
    assert not torch.allclose(network.predict(x_t, t, condition, 0.3 * t), network.predict(x_t, t, condition, t))


def test_second_time_follows_the_dtype_of_the_network(make):
    network = make().bfloat16()
    network.add_second_time()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_weights_round_trip(make, tmp_path):
    source = awake(make(num_classes=3))
    path = str(save_tensors(tmp_path / "net.safetensors", source.state_dict()))
    network = make(num_classes=3, weights=path)
    network.load_weights()
    x_t, t, condition = batch(network)
    assert torch.equal(network.predict(x_t, t, condition), source.predict(x_t, t, condition))
    flow_map = make(num_classes=3, weights=path, second_time=True)
    torch.nn.init.normal_(flow_map.second_time.out.weight)
    flow_map.load_weights()
    assert torch.equal(flow_map.predict(x_t, t, condition, 0.5 * t), source.predict(x_t, t, condition))
    torch.nn.init.normal_(flow_map.second_time.out.weight)
    path = str(save_tensors(tmp_path / "map.safetensors", flow_map.state_dict()))
    again = make(num_classes=3, weights=path, second_time=True)
    again.load_weights()
    assert torch.equal(again.predict(x_t, t, condition, 0.5 * t), flow_map.predict(x_t, t, condition, 0.5 * t))


def test_wrong_weights(make, tmp_path):
    path = str(save_tensors(tmp_path / "net.safetensors", make(num_classes=3).state_dict()))
    for wrong in (make(num_classes=4, weights=path), make(weights=path)):
        with pytest.raises(UserError, match="does not fit"):
            wrong.load_weights()
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        make(weights=str(tmp_path / "broken.safetensors")).load_weights()
    with pytest.raises(UserError, match="does not exist"):
        make(weights=str(tmp_path / "missing.safetensors")).load_weights()


def test_bfloat16_parameters(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    exact = network(x_t, t, condition).x0
    half = copy.deepcopy(network).bfloat16()(x_t, t, condition).x0
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)


def test_autocast(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    exact = network(x_t, t, condition).x0
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x_t, t, condition).x0
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.05)


def test_forward_mode_derivative(make):
    """Flow maps need d/dt, d/ds and d/dx of the network; compared with central differences in fp64."""
    network = awake(make(num_classes=3, second_time=True)).double()
    torch.nn.init.normal_(network.second_time.out.weight, std=0.3)
    x_t, t, condition = batch(network, dtype=torch.float64)
    s, direction = 0.4 * t, torch.randn(x_t.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def at(shift: float):
        return network.predict(x_t + shift * direction, t + shift, condition, s + 0.5 * shift)

    def run(x, t, s):
        return network.predict(x, t, condition, s)

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        value, slope = torch.func.jvp(run, (x_t, t, s), (direction, torch.ones_like(t), 0.5 * torch.ones_like(s)))
    torch.testing.assert_close(value, at(0.0))
    torch.testing.assert_close(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-7)


def test_feature_path(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    with tap(network, [network.feature_path]) as features:
        network(x_t, t, condition)
    assert features[network.feature_path].shape[0] == len(t)


def test_deepcopy_is_equal_and_independent(make):
    network = awake(make(num_classes=3))
    x_t, t, condition = batch(network)
    clone = copy.deepcopy(network)
    assert torch.equal(clone.predict(x_t, t, condition), network.predict(x_t, t, condition))
    with torch.no_grad():
        next(clone.parameters()).add_(1.0)
    assert not torch.equal(next(clone.parameters()), next(network.parameters()))


def test_what_an_adapter_is_told_leaves_nothing_behind_on_its_network():
    network = awake(NETWORKS["mlp"](num_classes=3))
    x_t, t, condition = batch(network)
    before = network(x_t, t, condition).x0
    student = LoRA(rank=2).attach(network)
    student.add_second_time()
    hooks = list(network.time_embedder._forward_hooks)
    student(x_t, t, condition, 0.5 * t)
    assert list(network.time_embedder._forward_hooks) == hooks
    assert torch.equal(network(x_t, t, condition).x0, before)


def test_a_guidance_scale_is_seen_as_its_logarithm():
    seen: list[torch.Tensor] = []
    layer = GuidanceInput(16)
    layer.hidden.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    scale = torch.tensor([0.0, 1.0, 7.5])
    assert layer(scale).shape == (3, 16)
    torch.testing.assert_close(seen[0], time_features(torch.tensor([1e-3, 1.0, 7.5]).log(), 8))
