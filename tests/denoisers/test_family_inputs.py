"""Second time and guidance, added to the embedding of the time of every diffusers family, on tiny pipelines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoisers.families import FAMILIES
from denoisers.tiny_sd import write_tiny_pipeline
from torch import Tensor

from fastgen.denoisers import LoRA
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers.sd import StableDiffusion
from fastgen.denoisers.wrappers.on_process import OnProcess
from fastgen.errors import UserError
from fastgen.objectives.tangents import FiniteDifference, ForwardMode
from fastgen.processes import RectifiedFlow, TrigFlow

torch.set_num_threads(1)

Build = Callable[..., Denoiser]


@pytest.fixture(scope="module", params=["StableDiffusion", *FAMILIES])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds the network of one tiny pipeline with its weights."""
    folder = tmp_path_factory.mktemp(request.param)
    family = FAMILIES.get(request.param)
    if family is None:
        write_tiny_pipeline(folder)
    else:
        family.write(folder)

    def make(**options: Any) -> Denoiser:
        network = StableDiffusion(str(folder), **options) if family is None else family.build(folder, **options)
        network.load_weights()
        return network.requires_grad_(False).eval()

    return make


def inputs(network: Denoiser, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Three points with start and end of a jump, the last of which goes nowhere."""
    g = torch.Generator().manual_seed(1)
    condition = {
        name: torch.randn(value.shape, generator=g, dtype=dtype) if value.is_floating_point() else value
        for name, value in network.example_condition(3).items()
    }
    x = torch.randn(3, *network.sample_shape, generator=g, dtype=dtype)
    t, s = (network.process.time(torch.tensor(ratio).double()) for ratio in ([0.4, 1.0, 3.0], [0.1, 0.5, 3.0]))
    return x, t, s, condition


def awake(network: Denoiser) -> Denoiser:
    """The network with random numbers in its added inputs, which start without effect."""
    g = torch.Generator().manual_seed(2)
    projection = getattr(network.time_embedder, "cond_proj", None)
    for added in (network.second_time, network.guidance_input, projection):
        for parameter in added.parameters() if added is not None else ():
            parameter.data.normal_(std=0.3, generator=g)
    return network


def adapted(network: Denoiser) -> Denoiser:
    """A LoRA student on the network, with a second time of its own; nothing in it is zero."""
    role = LoRA(rank=2).attach(network).to(next(network.parameters()).dtype)
    role.add_second_time()
    g = torch.Generator().manual_seed(3)
    for parameter in role.parameters():
        parameter.data.normal_(std=0.1, generator=g)
    return role


def test_added_inputs_keep_the_function_bit_for_bit(build: Build):
    network = build()
    x, t, s, condition = inputs(network)
    native = network.takes_guidance  # FLUX.1-dev
    told = {**condition, "guidance": torch.full((3,), 2.5) if native else torch.tensor([1.0, 4.0, 9.0])}
    with pytest.raises(UserError, match="no second time input"):
        network(x, t, condition, s)
    before = network(x, t, condition).value
    network.add_second_time()
    network.add_guidance_input()
    assert network.takes_second_time
    assert torch.equal(network(x, t, condition).value, before)
    assert torch.equal(network(x, t, told, s).value, before)
    awake(network)
    after = network(x, t, told, s).value
    differs = (after - network(x, t, told).value).flatten(1).abs().amax(1) > 1e-3
    assert differs.tolist() == [True, True, False], "without a second time the jump goes nowhere"
    other = {**condition, "guidance": torch.full((3,), 7.0)} if native else condition
    assert (after - network(x, t, other, s).value).abs().max() > 1e-3
    assert not network.time_embedder._forward_hooks, "calls leave nothing behind"


def test_a_student_owns_its_inputs(build: Build):
    """What is trained reaches the loss, copies are independent, and weights can be saved and read."""
    teacher = build()
    student = copy.deepcopy(teacher).requires_grad_(True)
    student.add_second_time()
    x, t, s, condition = inputs(student)
    student(x, t, condition, s).value.square().sum().backward()
    assert student.second_time.out.weight.grad.abs().sum() > 0
    average = copy.deepcopy(awake(student))
    expected = student(x, t, condition, s).value
    again = copy.deepcopy(teacher)
    again.add_second_time()
    again.load_state_dict(student.state_dict())
    for parameter in student.second_time.parameters():
        parameter.data.zero_()
    assert torch.equal(average(x, t, condition, s).value, expected)
    assert torch.equal(again(x, t, condition, s).value, expected)
    assert torch.equal(teacher(x, t, condition).value, student(x, t, condition, s).value)


@pytest.mark.parametrize("process", [RectifiedFlow(), TrigFlow(1.0)], ids=["flow", "trig"])
def test_forward_mode_is_the_central_difference(build: Build, process: RectifiedFlow | TrigFlow):
    """Along (x, t) at fixed s. The embeddings of the time are fp32 inside, and t reaches them times 1000."""
    network = build().double()
    network.add_second_time()
    view = OnProcess(awake(network), process)
    x, t, s, condition = inputs(network, torch.float64)
    t, s = (process.time(network.process.ratio(time)) for time in (t, s))
    velocity = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return view(x, t, condition, s).velocity

    scale = torch.tensor([-0.5, 1.0, 2.0]).double()
    exact = ForwardMode().product(field, x, t, velocity, scale, 0.5 * t, process.t_max)
    near = FiniteDifference(1e-4).product(field, x, t, velocity, scale, 0.5 * t, process.t_max)
    assert exact.dtype == torch.float64
    assert (exact - near).norm() < 1e-2 * exact.norm()


def test_an_adapter_has_a_second_time_of_its_own(build: Build):
    """Values, products and gradients of a LoRA student are those of a whole network with its weights."""
    base = build().double()
    x, t, s, condition = inputs(base, torch.float64)
    before = base(x, t, condition).value
    role = adapted(base)
    whole = role.merged()
    assert role.takes_second_time and whole.takes_second_time and not base.takes_second_time
    close = {"rtol": 1e-6, "atol": 1e-6}  # attention scores are fp32 in some families
    values = [network(x, t, condition, s).value for network in (role, whole, copy.deepcopy(role))]
    torch.testing.assert_close(values[0], values[1], **close)
    assert torch.equal(values[0], values[2])
    assert not torch.allclose(values[0], role(x, t, condition).value, atol=1e-3)
    products = [
        ForwardMode().product(
            lambda x, t, network=network: network(x, t, condition, s).velocity, x, t, x, torch.ones_like(t), t, 1.0
        )
        for network in (role, whole)
    ]
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-4 * products[1].abs().max().item())
    assert torch.equal(base(x, t, condition).value, before), "without the adapter the base is bit-equal"


def test_gradient_checkpointing_keeps_the_gradient_of_the_second_time(build: Build):
    """In the pass that trains, after a product in the same step; for whole students and adapters."""
    gradients = {}
    for saving in (False, True):
        base = build(gradient_checkpointing=saving)
        whole = copy.deepcopy(base).requires_grad_(True)
        whole.add_second_time()
        for kind, student in (("whole", awake(whole)), ("adapter", adapted(base))):
            x, t, s, condition = inputs(base)

            def field(x: Tensor, t: Tensor, student=student, s=s, condition=condition) -> Tensor:
                return student(x, t, condition, s).velocity

            target = ForwardMode().product(field, x, t, x, torch.ones_like(t), t, base.process.t_max)
            base.train()  # diffusers recomputes only in training
            student.train()
            (field(x, t) - 1e-3 * target).square().sum().backward()
            base.eval()
            gradients[kind, saving] = [parameter.grad for parameter in student.second_time.parameters()]
    for kind in ("whole", "adapter"):
        for plain, saved in zip(gradients[kind, False], gradients[kind, True], strict=True):
            assert plain.abs().sum() > 0
            torch.testing.assert_close(saved, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())
