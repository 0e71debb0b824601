"""What bf16 cannot tell apart, diffusers networks in bf16 can: times and guidance scales are embedded in fp32."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from denoisers.families import FAMILIES
from denoisers.tiny_sd import write_tiny_pipeline
from torch import Tensor, nn

from fastgen.denoisers import LoRA, StableDiffusion
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.wrappers.added_inputs import SecondTime
from fastgen.processes import RectifiedFlow

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["StableDiffusion", *FAMILIES])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PipelineDenoiser:
    folder = tmp_path_factory.mktemp(request.param)
    family = FAMILIES.get(request.param)
    made = StableDiffusion(str(write_tiny_pipeline(folder))) if family is None else family.build(family.write(folder))
    made.load_weights()
    return made.requires_grad_(False).eval()


@pytest.fixture(params=["bf16-true", "bf16-mixed"])
def half(request: pytest.FixtureRequest, network: PipelineDenoiser) -> tuple[PipelineDenoiser, AbstractContextManager]:
    """A copy in the precision that the trainer's plugin of that name gives it."""
    if request.param == "bf16-true":
        return copy.deepcopy(network).bfloat16(), nullcontext()
    return copy.deepcopy(network), torch.autocast("cpu", torch.bfloat16)


def embeddings(module: nn.Module, call) -> tuple[Tensor, Tensor]:
    """What the first layer of ``module`` sees and what ``module`` answers, during ``call``."""
    seen: list[Tensor] = []
    handles = [
        module.linear_1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
        module.register_forward_hook(lambda _, inputs, output: seen.append(output)),
    ]
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    sinusoids, embedding = seen
    return sinusoids, embedding


def inputs(network: PipelineDenoiser) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """One sample twice, at two times that are one number in bf16."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, *network.sample_shape, generator=g).expand(2, *network.sample_shape)
    scale = float(network.process.t_max)
    t = (torch.tensor([500.0, 501.0]) if scale > 1 else torch.tensor([0.5, 0.501])).double()
    assert t.bfloat16()[0] == t.bfloat16()[1]
    return x, t, network.example_condition(2)


def exact(network: PipelineDenoiser, number: Tensor) -> Tensor:
    """Sinusoids of ``number`` in fp64, by the formula of the network's own module."""
    module = network.get_submodule(network.sinusoids_path)
    half = module.num_channels // 2
    rates = 10000.0 ** (-torch.arange(half).double() / (half - module.downscale_freq_shift))
    angles = module.scale * number.double()[:, None] * rates
    parts = [angles.cos(), angles.sin()] if module.flip_sin_to_cos else [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)


def test_the_time_is_embedded_in_fp32(network: PipelineDenoiser, half):
    low, autocast = half
    x, t, condition = inputs(low)
    with autocast:
        sinusoids, embedding = embeddings(low.time_embedder, lambda: low(x, t, condition))
    _, expected = embeddings(network.time_embedder, lambda: network(x, t, condition))
    per_unit = 1000 if float(network.process.t_max) <= 1 else 1
    number = t * per_unit / network.get_submodule(network.sinusoids_path).scale
    torch.testing.assert_close(sinusoids, low.get_submodule(low.sinusoids_path)(number.float()), rtol=0, atol=1e-6)
    # An angle of 500 in fp32 is exact to 3e-5.
    torch.testing.assert_close(sinusoids, exact(network, number).float(), rtol=0, atol=1e-4)
    assert (embedding[0] - embedding[1]).abs().max() > 1e-2
    # Rounded once: within half a step of bf16 of what fp32 gives, beside the rounding of the weights.
    torch.testing.assert_close(embedding.float(), expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))


def test_sixty_four_near_times_have_as_many_answers(network: PipelineDenoiser, half):
    """In [0.5, 0.5156), where the code of FLUX.1 knows five numbers of bf16."""
    low, autocast = half
    x, _, condition = inputs(low)
    t = (0.5 + torch.arange(64).double() / 4096) * float(low.process.t_max)
    rows = {name: value[:1].expand(64, *value.shape[1:]) for name, value in condition.items()}
    with torch.no_grad(), autocast:
        answers = low(x[:1].expand(64, *low.sample_shape), t, rows).value
    assert len(answers.flatten(1).unique(dim=0)) == 64


def test_a_guidance_scale_is_embedded_in_fp32(network: PipelineDenoiser, half):
    low, autocast = half
    if not network.takes_guidance:
        pytest.skip("no input of its own")
    x, t, condition = inputs(low)
    scale = torch.tensor([3.501, 3.502])
    assert scale.bfloat16()[0] == scale.bfloat16()[1]
    told = {**condition, "guidance": scale}
    with autocast:
        embedder = low.network.time_text_embed.guidance_embedder
        sinusoids, embedding = embeddings(embedder, lambda: low(x, t, told))
    torch.testing.assert_close(sinusoids, exact(low, 1000.0 * scale).float(), rtol=0, atol=1e-3)  # angles of 3500
    assert (embedding[0] - embedding[1]).abs().max() > 1e-2


def test_what_lcms_unet_is_told_is_embedded_in_fp32(network: PipelineDenoiser, half):
    low, autocast = half
    if network.part != "unet":
        pytest.skip("no U-Net")
    low.add_guidance_input()
    projection = low.network.time_embedding.cond_proj
    nn.init.normal_(projection.weight, std=0.3)
    x, t, condition = inputs(low)
    seen: list[Tensor] = []
    projection.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    with torch.no_grad(), autocast:
        value = low(x, t, {**condition, "guidance": torch.tensor([7.501, 7.502])}).value
    assert value.isfinite().all() and [tensor.dtype for tensor in seen] == [torch.float32] * 2
    assert (seen[0][0] - seen[0][1]).abs().max() > 1e-2


def test_sizes_and_crops_are_not_rounded(network: PipelineDenoiser, half):
    low, autocast = half
    if not hasattr(network, "time_ids"):
        pytest.skip("only SDXL is told them")
    x, t, condition = inputs(low)
    ids = torch.tensor([[1023.0, 1021.0, 257.0, 259.0, 1024.0, 1024.0]]).expand(2, -1)
    seen: list[Tensor] = []
    handle = low.network.add_time_proj.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.no_grad(), autocast:
        low(x, t, {**condition, "time_ids": ids})
    handle.remove()
    assert torch.equal(seen[0], ids.flatten())


def test_added_inputs_and_lora_on_the_embedding_learn_in_fp32(network: PipelineDenoiser, half):
    """Their change of the embedding is that of the same change of an fp32 network; gradients reach it."""
    low, autocast = half
    x, t, condition = inputs(low)
    changes = []
    for base, context in ((copy.deepcopy(network), nullcontext()), (low, autocast)):
        role = LoRA(rank=2, layers=f"{network.time_path}*").attach(base)
        role.add_second_time()
        g = torch.Generator().manual_seed(3)
        for parameter in role.parameters():
            nn.init.normal_(parameter, std=0.3, generator=g)
        found: list[Tensor] = []
        first = base.time_embedder.linear_1
        first.register_forward_hook(lambda _, inputs, output, found=found: found.append(output))
        with context:
            role(x, t, condition, 0.5 * t).value.float().square().mean().backward()
        assert found[0].dtype == torch.float32
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in role.parameters())
        changes.append(found[0].detach())
    torch.testing.assert_close(changes[1], changes[0], rtol=0, atol=1e-2 * float(changes[0].abs().max()))


@pytest.mark.parametrize("context", [nullcontext(), torch.autocast("cpu", torch.bfloat16)])
def test_a_second_time_is_embedded_in_fp32(context: AbstractContextManager):
    torch.manual_seed(0)
    exact = SecondTime(16)
    nn.init.normal_(exact.out.weight)
    process, t = RectifiedFlow(), torch.tensor([0.9, 0.9], dtype=torch.float64)
    s = torch.tensor([0.5, 0.5001], dtype=torch.float64)
    with context:
        low = copy.deepcopy(exact).bfloat16()(process, t, s)
        mixed = exact(process, t, s)
    assert mixed.dtype == low.dtype == torch.float32 and torch.equal(mixed, exact(process, t, s))
    assert (low[0] - low[1]).abs().max() > 1e-5


def test_diffusers_own_call_of_the_network_is_unchanged(network: PipelineDenoiser):
    """As an exported or assembled pipeline calls it, without our context: in the dtype of its layers."""
    low = copy.deepcopy(network).bfloat16()
    embedder = low.time_embedder
    sample = torch.randn(2, embedder.linear_1.in_features, generator=torch.Generator().manual_seed(0))
    plain = type(embedder).__base__(embedder.linear_1.in_features, embedder.linear_1.out_features)
    plain.load_state_dict(network.time_embedder.state_dict())
    with torch.no_grad():
        assert torch.equal(network.time_embedder(sample), plain(sample))
        ours, theirs = embedder(sample.bfloat16()), plain.bfloat16()(sample.bfloat16())
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max()))
