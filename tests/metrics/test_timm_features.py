"""Backbones of timm from files that the test writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fastgen.errors import UserError
from fastgen.metrics.extractors.timm_features import DinoV2, TimmFeatures

TINY = "test_vit.r160_in1k"
SIZE = 160


def images(size: int = 96) -> torch.Tensor:
    return torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(TINY).eval()


def expected(model: torch.nn.Module, size: int = SIZE) -> torch.Tensor:
    config = model.pretrained_cfg
    x = torch.nn.functional.interpolate(images().float(), (size, size), mode="bicubic", antialias=True) / 255
    x = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        return model.forward_head(model.forward_features(x), pre_logits=True)


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors", "nested.pth"])
def test_both_formats(model: torch.nn.Module, tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    if file == "w.safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict() if file == "w.pth" else {"state_dict": model.state_dict()}, path)
    extractor = TimmFeatures(TINY, str(path))
    assert extractor.num_features == 64 and extractor.size == SIZE
    features = extractor(images())
    torch.testing.assert_close(features, expected(model), rtol=1e-5, atol=1e-5)
    assert extractor.fingerprint().startswith(f"timm_{TINY}/bicubic-160/sha256:")
    with pytest.raises(UserError, match="RGB"):
        extractor(images()[:, :1])


def test_another_size_resamples_the_positions(model: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "w.pth")
    extractor = TimmFeatures(TINY, str(tmp_path / "w.pth"), size=64, resize="squash")
    own = timm.create_model(
        TINY, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "w.pth")}, img_size=64, num_classes=0
    ).eval()
    assert extractor.network.pos_embed.shape == own.pos_embed.shape
    torch.testing.assert_close(extractor.network.pos_embed, own.pos_embed)
    assert extractor(images()).shape == (2, 64)


def test_a_file_that_does_not_fit_is_no_random_network(model: torch.nn.Module, tmp_path: Path) -> None:
    """Timm only warns when a file lacks tensors."""
    partial = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.1.")}
    torch.save(partial, tmp_path / "partial.pth")
    with pytest.raises(UserError, match=r"lacks 'blocks\.1\."):
        TimmFeatures(TINY, str(tmp_path / "partial.pth"))(images())
    torch.save({"other": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not fit TimmFeatures"):
        TimmFeatures(TINY, str(tmp_path / "other.pth"))(images())
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="is damaged or holds pickled"):
        TimmFeatures(TINY, str(tmp_path / "text.pth"))(images())


def test_dinov2_by_default() -> None:
    extractor = DinoV2()
    assert extractor.model == "vit_large_patch14_dinov2.lvd142m" and extractor.num_features == 1024
    assert extractor.name.startswith("dinov2_timm") and extractor.preprocessing == "bicubic-224"
    assert extractor.config.mean == (0.485, 0.456, 0.406)
