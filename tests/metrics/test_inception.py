"""Both translations of Inception, from files in the released formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastgen.errors import UserError
from fastgen.metrics.extractors.inception import Inception, NvidiaInception
from fastgen.metrics.extractors.resize import resize_clean, resize_tf1
from fastgen.storage.files import sha256


class FakeLayers(nn.Module):
    """2048 numbers of an image of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(9, 2048)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.nn.functional.adaptive_avg_pool2d(x, [1, 3]).flatten(1)).relu()


class FakeOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1008, 2048) / 45)
        self.bias = nn.Parameter(torch.randn(1008))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


class FakeNvidia(nn.Module):
    """The surface of NVIDIA's file: resize inside, ``layers``, ``output``, ``return_features``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = FakeLayers()
        self.output = FakeOutput()

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = torch.nn.functional.interpolate(img, [299, 299], mode="nearest")
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        return self.output(features).softmax(dim=1)


@pytest.fixture(scope="module")
def nvidia_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("nvidia") / "inception-2015-12-05.pt"
    torch.jit.script(FakeNvidia().eval()).save(str(path))
    return path


def images(size: int = 40, count: int = 3) -> Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_nvidia_format(nvidia_file: Path) -> None:
    program = torch.jit.load(str(nvidia_file))
    with torch.no_grad():
        inside = NvidiaInception(str(nvidia_file))
        assert inside(images()).shape == (3, 2048)
        torch.testing.assert_close(inside(images()), program(images().float(), return_features=True))
        clean = NvidiaInception(str(nvidia_file), resize="clean")
        torch.testing.assert_close(clean(images()), program.layers((resize_clean(images(), 299) - 128) / 128))
        crop = NvidiaInception(str(nvidia_file), resize="none")
        torch.testing.assert_close(crop(images(299)), program.layers((images(299).float() - 128) / 128))
        features = inside(images())
        assert inside.logits(features).shape == (3, 1008)
        probabilities = (inside.logits(features) + program.output.bias).softmax(dim=1)
        torch.testing.assert_close(probabilities, program(images().float()))
    digest = sha256(nvidia_file)[:16]
    assert inside.fingerprint() == f"inception_nvidia/tf1-299/sha256:{digest}"
    assert clean.fingerprint() == f"inception_nvidia/clean-299/sha256:{digest}"
    assert not inside.logits_show_labels


def test_nvidia_format_names_what_is_wrong(nvidia_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="299x299, got \\(100, 100\\)"):
        NvidiaInception(str(nvidia_file), resize="none")(images(100))
    with pytest.raises(UserError, match="at least 75 pixels"):
        NvidiaInception(str(nvidia_file), resize="none")(images(32))
    with pytest.raises(UserError, match="RGB images, got 1 channels"):
        NvidiaInception(str(nvidia_file))(images()[:, :1])
    text = tmp_path / "text.pt"
    text.write_text("no program")
    with pytest.raises(UserError, match="no TorchScript file"):
        NvidiaInception(str(text))(images())
    torch.jit.script(FakeLayers()).save(str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match="not NVIDIA's Inception"):
        NvidiaInception(str(tmp_path / "other.pt"))(images())


def test_wrong_files_for_torch_fidelity(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not hold torch-fidelity's Inception"):
        Inception(str(tmp_path / "w.pth"))(images())


@pytest.mark.slow
def test_equals_torch_fidelity(tmp_path: Path) -> None:
    """He-initialised weights in the released format; the reference implementation reads the same file."""
    reference = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from fastgen.metrics.extractors.inception_network import InceptionNetwork

    torch.manual_seed(0)
    network = InceptionNetwork()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    theirs = reference.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    with torch.no_grad():
        features, logits = theirs(images())
        ours = Inception(str(path))
        found = ours(images())
        assert float(features.std(dim=0).mean()) > 1e-3  # the images make a difference
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.logits(found), logits, rtol=1e-4, atol=1e-4)
        assert ours.fingerprint().startswith("inception_torch_fidelity/tf1-299/sha256:")
        # "none" on an image that was resized before is "tf1" up to the rounding to 8 bits
        resized = resize_tf1(images(299, 1), 299).to(torch.uint8)
        torch.testing.assert_close(Inception(str(path), "none")(resized), ours(images(299, 1)), rtol=1e-5, atol=1e-6)
        assert (Inception(str(path), "clean")(images()) - found).abs().mean() > 1e-3
    # Old files lack the counters of the batch norms.
    torch.save({k: v for k, v in network.state_dict().items() if "num_batches" not in k}, tmp_path / "old.pth")
    torch.testing.assert_close(Inception(str(tmp_path / "old.pth"))(images()), found)
