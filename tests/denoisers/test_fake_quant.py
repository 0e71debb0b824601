"""Students of few bits: the formats' grids, the gradient, the teacher left alone, the exported weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from denoisers.tiny_sd3 import write_tiny_sd3
from every_method import fit
from torch import nn
from toys import CLASSES, build, network

from fastgen.cli.commands.export import write_export
from fastgen.denoisers import FakeQuant, StableDiffusion3
from fastgen.denoisers.wrappers.fake_quant import RoundedLinear
from fastgen.denoisers.wrappers.number_formats import FP4, FP8, NVFP4, NumberFormat, e2m1, e4m3
from fastgen.errors import UserError
from fastgen.methods import DMD2
from fastgen.sampling.samplers import RenoiseSampler

pytestmark = pytest.mark.filterwarnings("ignore")
FORMATS = [NVFP4(), FP8()]
every_format = pytest.mark.parametrize("format", FORMATS, ids=repr)


def test_the_grids():
    """Every number of E2M1 is itself, halves go to the even one of its neighbours, what is too large to the largest."""
    grid = torch.tensor(FP4)
    assert torch.equal(e2m1(grid), grid) and torch.equal(e2m1(-grid), -grid)
    halves = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0])
    assert torch.equal(e2m1(halves), torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]))
    assert e2m1(torch.tensor([0.26, 2.49, -5.01])).tolist() == [0.5, 2.0, -6.0]
    assert e4m3(torch.tensor([1.0625, 447.0, 1e6, 2.0**-9])).tolist() == [1.0, 448.0, 448.0, 2.0**-9]


@every_format
@pytest.mark.parametrize("shape", [(8, 32), (5, 3, 20)])
def test_rounding_twice_is_rounding_once(format: NumberFormat, shape: tuple[int, ...]):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for by_sample in (False, True):
        once = format.rounded(values, by_sample)
        torch.testing.assert_close(format.rounded(once, by_sample), once, rtol=2e-7, atol=0)
        error = (once - values).norm() / values.norm()
        assert (0.07 < error < 0.12) if isinstance(format, NVFP4) else (0.01 < error < 0.04)
    alone = format.rounded(values[:1], by_sample=True)
    assert torch.equal(format.rounded(values, by_sample=True)[:1], alone), "a sample does not depend on others"
    assert torch.equal(format.rounded(torch.zeros(4, 16)), torch.zeros(4, 16))


def test_a_block_by_hand():
    """The first block's largest value is 12 and its scale 12 / 6; of the second 3 and 3 / 6."""
    values = torch.zeros(1, 32)
    values[0, :3], values[0, 16:19] = torch.tensor([12.0, 5.0, -1.3]), torch.tensor([3.0, 0.6, 0.1])
    found = NVFP4().rounded(values)[0]
    torch.testing.assert_close(found[:3], 2.0 * torch.tensor([6.0, 2.0, -0.5]))  # 12 / 6 = 2: 2.5 is a half, .65 -> .5
    torch.testing.assert_close(found[16:19], 0.5 * torch.tensor([6.0, 1.0, 0.0]))  # 3 / 6: 1.2 -> 1, .2 -> 0


@every_format
def test_the_gradient_is_that_of_exact_numbers(format: NumberFormat):
    exact = nn.Linear(32, 8).double()
    rounded = nn.Linear(32, 8).double()
    rounded.load_state_dict(exact.state_dict())
    rounded.__class__, rounded.format, rounded.activations = RoundedLinear, format, True
    x = torch.randn(4, 32).double()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(one) for layer, one in zip((exact, rounded), inputs, strict=True)]
    expected = format.rounded(x, True) @ format.rounded(exact.weight).T + exact.bias
    torch.testing.assert_close(outputs[1], expected, rtol=0, atol=0)
    slope = torch.randn(4, 8).double()
    for output in outputs:
        output.backward(slope)
    _, tangents = zip(*(torch.func.jvp(layer, (x,), (torch.ones_like(x),)) for layer in (exact, rounded)), strict=True)
    assert torch.equal(*tangents), "forward derivatives, of flow maps, likewise"
    assert torch.equal(inputs[0].grad, inputs[1].grad) and torch.equal(exact.weight.grad, rounded.weight.grad)


@every_format
def test_only_the_student_is_rounded_and_it_trains(format: NumberFormat):
    teacher = network(0)
    x, t, label = torch.randn(4, 2), torch.full((4,), 2.0), {"label": torch.arange(4) % CLASSES}
    before = teacher(x, t, label).value
    student = FakeQuant(format).build(teacher)
    assert torch.equal(teacher(x, t, label).value, before) and not torch.allclose(student(x, t, label).value, before)
    assert student.state_dict().keys() == teacher.state_dict().keys()
    method = build(DMD2, student=FakeQuant(format), teacher=partial(network, 0))
    fit(method, 5)
    assert all(type(module) is not RoundedLinear for module in method.critic.modules())
    with pytest.raises(UserError, match="fits no linear layer"):
        FakeQuant(layers="*.ffn.*").build(teacher)


def test_an_exported_pipeline_holds_the_rounded_weights(tmp_path: Path):
    from diffusers import SD3Transformer2DModel

    folder = write_tiny_sd3(tmp_path / "sd3")

    def teacher() -> StableDiffusion3:
        return StableDiffusion3(str(folder), max_tokens=24)

    made = []
    for activations in (False, True):
        student = FakeQuant(layers="*.attn.*", activations=activations)
        method = DMD2(teacher=teacher, student=student, sampler=RenoiseSampler(times=[1.0]))
        method.configure_model()
        made.append(method)
    method, both = made
    write_export(method, tmp_path / "student", "pipeline", None, "student")
    loaded = SD3Transformer2DModel.from_pretrained(tmp_path / "student", subfolder="transformer")
    ours = method.student.network
    place = "transformer_blocks.0.attn.to_q"
    assert isinstance(ours.get_submodule(place), RoundedLinear)
    weight = ours.get_submodule(place).weight
    assert torch.equal(loaded.get_submodule(place).weight, NVFP4().rounded(weight)) and not torch.equal(
        loaded.get_submodule(place).weight, weight
    )
    x = torch.randn(2, *method.student.sample_shape)
    t, condition = torch.tensor([0.7, 0.2]).double(), method.student.example_condition(2)
    with torch.no_grad():
        before = method.student(x, t, condition).value
        ours.load_state_dict(loaded.state_dict())
        torch.testing.assert_close(method.student(x, t, condition).value, before, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="rounds the inputs"):
        write_export(both, tmp_path / "other", "pipeline", None, "student")
