"""Second times under diffusers' names: the teacher at first, AnyFlow's pipeline in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_wan import write_tiny_wan

from fastgen.cli.commands.export import write_export
from fastgen.denoisers import MLP, LoRA, StableDiffusion3, Wan
from fastgen.denoisers.wrappers.second_time import GatedTime, NoiseAngles, SecondTimeForm, SummedTime
from fastgen.distiller.run_facts import RunFacts
from fastgen.errors import UserError
from fastgen.export.sampling import sampling_of
from fastgen.export.schedulers import flow_map_shift
from fastgen.methods import ECT, MeanFlow
from fastgen.objectives.tangents import value_and_jvp
from fastgen.processes import EDM
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler

pytestmark = pytest.mark.filterwarnings("ignore")
FORMS = [GatedTime(), GatedTime(0.5), SummedTime(), NoiseAngles()]
PROMPTS = ["a cat", "two dogs"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("second")
    return {"wan": write_tiny_wan(folder / "wan"), "sd3": write_tiny_sd3(folder / "sd3")}


def wan(folders: dict[str, Path]) -> Wan:
    network = Wan(str(folders["wan"]), height=16, width=16, frames=5, max_tokens=24)
    network.load_weights()
    return network


def sd3(folders: dict[str, Path]) -> StableDiffusion3:
    network = StableDiffusion3(str(folders["sd3"]), max_tokens=24)
    network.load_weights()
    return network


def asked(network: Any) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *network.sample_shape, generator=generator)
    condition = {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in network.example_condition(3).items()
    }
    return x, torch.tensor([0.9, 0.5, 0.1]).double(), condition


@pytest.mark.parametrize("make", [wan, sd3])
@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_teacher_bit_for_bit_where_both_times_are_one(
    make: Any, form: SecondTimeForm, dtype: torch.dtype, folders: dict[str, Path]
):
    network = make(folders).to(dtype)
    x, t, condition = asked(network)
    with torch.no_grad():
        before = network(x, t, condition).value
        network.add_second_time(form)
        same, other = network(x, t, condition, t).value, network(x, t, condition, 0.5 * t).value
    assert torch.equal(before, same)
    assert torch.equal(same, other) == (not isinstance(form, GatedTime)), "a copy of the embedder tells times apart"


def test_a_copy_learns_alone_and_an_adapter_owns_its_own(folders: dict[str, Path]):
    teacher = wan(folders).requires_grad_(False).to(torch.bfloat16)
    role = LoRA(rank=2).attach(teacher)
    for change in role.by_path().values():
        torch.nn.init.normal_(change.up.weight, std=0.05)
    role.add_second_time(GatedTime())
    x, t, condition = asked(teacher)
    role(x, t, condition, 0.3 * t).value.square().mean().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in role.second_time.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        merged = role.merged()
        torch.testing.assert_close(
            merged(x, t, condition, 0.3 * t).value, role(x, t, condition, 0.3 * t).value, rtol=0.1, atol=0.02
        )


def test_derivatives_in_the_second_time(folders: dict[str, Path]):
    network = wan(folders)
    network.add_second_time(GatedTime())
    x, t, condition = asked(network)
    s, h = 0.5 * t, 1e-4  # the sinusoids are those of 1000 s
    with torch.no_grad():
        _, slope = value_and_jvp(lambda s: network(x, t, condition, s).value, (s,), (torch.ones_like(s),))
        apart = network(x, t, condition, s + h).value - network(x, t, condition, s - h).value
    assert (slope - apart / (2 * h)).norm() < 0.02 * slope.norm()


def test_networks_without_sinusoids_say_so():
    with pytest.raises(UserError, match="second_time to NoiseAngles"):
        MLP(EDM()).add_second_time(GatedTime())


def made(folders: dict[str, Path], form: SecondTimeForm, teacher: Any = wan, **kwargs: Any) -> MeanFlow:
    """A student that is not its teacher."""
    method = MeanFlow(
        teacher=lambda: teacher(folders),
        second_time=form,
        sampler=JumpSampler(times=[1.0, 0.9375, 5 / 6, 0.625]),
        **kwargs,
    )
    method.configure_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return method


@pytest.mark.parametrize("adapters", [False, True])
def test_a_flow_map_of_wan_is_a_pipeline_of_diffusers(adapters: bool, folders: dict[str, Path], tmp_path: Path):
    from diffusers import AnyFlowPipeline, DiffusionPipeline

    method = made(folders, GatedTime(), **({"student": LoRA(rank=2)} if adapters else {}))
    if adapters:
        with pytest.raises(UserError, match="leave --format lora out"):
            write_export(method, tmp_path / "lora", "lora", None, "student")
    write_export(method, tmp_path / "student", "pipeline", None, "student")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "student")
    assert type(pipe) is AnyFlowPipeline and pipe.scheduler.config.shift == pytest.approx(5.0)
    ours = method.sample([3, 5], {"prompt": PROMPTS}, role="student")
    noise = Draws(0, [3, 5], "sample").normal("noise", method.student.sample_shape)
    options = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 24, "guidance_scale": 1.0}
    result = pipe(PROMPTS, latents=noise, num_inference_steps=4, output_type="pt", **options)
    torch.testing.assert_close(result.frames.transpose(1, 2), (0.5 * ours + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


def test_what_has_no_pipeline_is_refused(folders: dict[str, Path]):
    for method in (made(folders, NoiseAngles()), made(folders, SummedTime()), made(folders, GatedTime(), sd3)):
        with pytest.raises(UserError, match="an input that no pipeline of diffusers has"):
            sampling_of(method, "student")
    for times, why in (([0.9, 0.5], "start from pure noise"), ([1.0, 0.9, 0.8, 0.1], "a shift of even times")):
        with pytest.raises(UserError, match=why):
            flow_map_shift(times)
    assert flow_map_shift([1.0]) == 1.0 and flow_map_shift([1.0, 0.9375, 5 / 6, 0.625]) == pytest.approx(5.0)


def test_a_map_of_one_time_is_told_that_it_has_no_second(folders: dict[str, Path]):
    method = ECT(teacher=lambda: sd3(folders), second_time=GatedTime())
    method.configure_model()
    assert any("second_time does nothing" in line for line in method.without_effect(RunFacts(max_steps=10)))
