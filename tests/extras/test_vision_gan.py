"""A discriminator on networks of images: heads, augmentation, weights of a local file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fastgen.denoisers.networks.unet import UNet
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import DigitsBackbone, TimmBackbone, VisionGAN
from fastgen.extras.augmentation import augmented
from fastgen.extras.heads import ProjectionHead, known_of
from fastgen.methods import GDD, Distiller
from fastgen.methods.adversarial.gdd import names_of_level
from fastgen.objectives.weights import FlowWeight
from fastgen.processes import EDM
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler

pytestmark = pytest.mark.filterwarnings("ignore")


class Alone(Distiller):
    """A method whose loss is the extra's."""


def unet() -> UNet:
    return UNet(EDM(), num_classes=10, width=8)


def images(count: int = 4) -> MicroBatch:
    x0 = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return MicroBatch(x0, {"label": torch.arange(count)}, Draws(1, range(count), "train"))


def made(**kwargs: object) -> GDD:
    torch.manual_seed(0)
    method = GDD(teacher=unet, backbones=[DigitsBackbone()], sampler=RenoiseSampler([2.5]), **kwargs)  # type: ignore
    method.configure_model()
    return method.double()


def test_gdd_at_clean_images_by_hand():
    method, piece = made(r1_gamma=0.0), images()
    gan = method.extras[0]
    assert isinstance(gan, VisionGAN) and len(gan.heads) == 3
    with method.only("student"):
        (loss,) = method.losses("student", piece).values()
    x, draws = piece.rollouts["student"].x0, piece.draws.scoped("student/gan")
    seen = augmented(x, draws.scoped("augment"))
    network = gan.networks[0]
    total, known = torch.zeros(4, dtype=torch.float64), torch.nn.functional.one_hot(torch.arange(4), 11)
    for layer, head in zip((2, 9, 12), gan.heads, strict=True):
        features = network.body[: layer + 1](seen)
        hidden = head.plain.body(features)
        total = total + torch.nn.functional.softplus(
            -(
                head.plain.logit(hidden)[:, 0]
                + (head.of_features(hidden) * head.of_condition(known.double())).sum(1) / 8.0
            )
        )
    torch.testing.assert_close(loss, total.mean())
    parameters = list(method.student.parameters())
    one, other = (torch.autograd.grad(value, parameters, retain_graph=True) for value in (loss, total.mean()))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
    assert not any("network" in name for name in gan.state_dict()), "the backbone enters no checkpoint"
    assert not any(p.requires_grad for p in network.parameters())


def test_the_level_of_the_call_weighs_both_losses_and_heads_know_the_reference():
    """(1 - sigma)^2 of the flow's level 2.5 / 3.5; a head's condition ends with a real sample's mean features."""
    weight = (1.0 - 2.5 / 3.5) ** 2
    for role in ("student", "discriminator"):
        plain, method = made(r1_gamma=0.0), made(r1_gamma=0.0)
        method.extras[0].level_weight = FlowWeight(2.0)
        one, other = (m.losses(role, images())["gan"] for m in (plain, method))
        torch.testing.assert_close(other, weight * one)
        parameters = [list(m.trained_parameters[role]) for m in (plain, method)]
        pairs = zip(*(torch.autograd.grad(v, p) for v, p in zip((one, other), parameters, strict=True)), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(b, weight * a)
    torch.manual_seed(0)
    gan = VisionGAN([DigitsBackbone()], reference=True, optimizer=torch.optim.Adam)
    method = Alone(teacher=unet, sampler=RenoiseSampler([2.5]), extras=[gan])
    method.configure_model()
    method, piece = method.double(), images()
    told = gan.told(method, piece, piece.condition)
    wanted = gan.networks[0].body[:13](piece.x0).flatten(2).mean(2)
    known = known_of(told, 10)
    assert torch.equal(told["reference"], wanted) and known is not None and torch.equal(known[:, 11:], wanted)
    assert gan.heads[0].of_condition.in_features == known.shape[1]
    (loss,) = method.losses("student", piece).values()
    piece.x0 = -piece.x0
    piece.rollouts.clear()
    assert loss.item() != method.losses("student", piece)["gan"].item(), "another real sample, another verdict"


def test_r1_reaches_the_images():
    found = made(r1_gamma=0.1, r1_interval=1).losses("discriminator", images())
    assert found["r1_exact"].item() > 0 and found["r1_exact"].requires_grad


def test_augmentation_is_a_function_of_the_sample_and_has_a_gradient():
    x, draws = torch.randn(6, 3, 8, 10, dtype=torch.float64, requires_grad=True), Draws(0, range(6))
    y = augmented(x, draws)
    assert torch.equal(y[2:4], augmented(x[2:4], draws.part(2, 4)))
    assert y.shape == x.shape and ((y == 0).flatten(1).sum(1) >= 3).all(), "a hole in each"
    assert torch.autograd.gradcheck(lambda v: augmented(v, draws), x[:, :, :4, :5].detach().requires_grad_())


def test_heads_without_a_condition_are_plain():
    head = ProjectionHead((3, 4, 4), None, None)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(head(x, None), head.plain(x))
    tokens = ProjectionHead((5, 3), None, 7)
    assert tokens(torch.randn(2, 5, 3), torch.randn(2, 7)).shape == (2,)


def test_what_is_known_of_a_condition():
    prompts = {"prompt_embeds": torch.ones(2, 3, 4), "null_prompt_embeds": torch.zeros(2, 3, 4)}
    assert torch.equal(known_of(prompts, 0), torch.ones(2, 4))
    assert torch.equal(known_of({**prompts, "pooled": 2.0 * torch.ones(2, 6)}, 0), 2.0 * torch.ones(2, 6))
    assert known_of({"label": torch.tensor([1, 2])}, 2).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert known_of({}, 0) is None


def test_a_network_of_timm_with_a_local_file(tmp_path: Path):
    torch.manual_seed(5)
    source = timm.create_model("test_vit", pretrained=False)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    backbone = TimmBackbone("test_vit", ["blocks.0", "blocks.5"], str(tmp_path / "weights.safetensors"), size=160)
    network = backbone.build()
    torch.testing.assert_close(network.patch_embed.proj.weight, source.patch_embed.proj.weight)
    grey = torch.randn(2, 1, 8, 8, requires_grad=True)
    features = backbone.features(network, grey)
    assert [f.ndim for f in features] == [3, 3]
    features[1].sum().backward()
    assert grey.grad is not None and grey.grad.abs().sum() > 0
    rgb = backbone.prepared(torch.full((1, 3, 4, 4), 0.2))
    config = timm.get_pretrained_cfg("test_vit")
    torch.testing.assert_close(rgb[0, :, 0, 0], (0.6 - torch.tensor(config.mean)) / torch.tensor(config.std))


def test_levels_freeze_what_the_paper_freezes():
    levels = [names_of_level(unet(), level) for level in range(4)]
    assert levels[0] == [] and all(set(a) <= set(b) for a, b in pairwise(levels))
    assert any("conv_in" in name for name in levels[1]) and not any("qkv" in name for name in levels[1])
    assert any("skip" in name for name in levels[3]) and not any("norm" in name for name in levels[3])
    assert not any(name.startswith("stem") for name in levels[3])
    method = made(level=2)
    kept = {name for name, p in method.student.named_parameters() if not p.requires_grad}
    assert kept == set(levels[2])


def test_a_network_with_other_names_needs_patterns():
    from toys import network

    with pytest.raises(UserError, match="give patterns as 'frozen'"):
        names_of_level(network(0), 1)
    assert issubclass(GDD, Distiller)
