"""Files of weights: found, damaged, out of reach."""

from __future__ import annotations

import hashlib
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from command_line import unplug
from safetensors.torch import save_file

from fastgen.errors import UserError
from fastgen.metrics.extractors import weights
from fastgen.metrics.extractors.inception import Inception, NvidiaInception
from fastgen.metrics.extractors.lpips import Lpips
from fastgen.metrics.extractors.open_clip_features import OpenClipFeatures
from fastgen.metrics.extractors.timm_features import DinoV2, TimmFeatures
from fastgen.metrics.extractors.weights import Release, find_weights, read_weights
from fastgen.metrics.samples.duplicates import DuplicateRate
from fastgen.metrics.text.perceptual import TeacherAlignment
from fastgen.metrics.text.text_image import AestheticScore, CLIPScore, HPSv2, PickScore

IMAGES = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unplug(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("use", "file", "place", "option"),
    [
        (lambda: Inception()(IMAGES), "weights-inception-2015-12-05-6726825d.pth", "github.com/toshas", "weights"),
        (lambda: NvidiaInception()(IMAGES), "inception-2015-12-05.pt", "nvidia.com", "weights"),
        (lambda: DinoV2()(IMAGES), "model.safetensors", "timm/vit_large_patch14_dinov2.lvd142m", "weights"),
        (lambda: TimmFeatures("resnet18.a1_in1k")(IMAGES), "model.safetensors", "timm/resnet18.a1_in1k", "weights"),
        (lambda: OpenClipFeatures()(IMAGES), "open_clip_model.safetensors", "patch14_clip_336.openai", "weights"),
        (lambda: CLIPScore().update(IMAGES, ["a"]), "open_clip_model.safetensors", "laion/CLIP-ViT-g-14", "weights"),
        (lambda: HPSv2().update(IMAGES, ["a"]), "HPS_v2.1_compressed.pt", "xswu/HPSv2", "weights"),
        (lambda: HPSv2(version="v2.0").update(IMAGES, ["a"]), "HPS_v2_compressed.pt", "xswu/HPSv2", "weights"),
        (lambda: PickScore().update(IMAGES, ["a"]), "model.safetensors", "yuvalkirstain/PickScore_v1", "weights"),
        (lambda: AestheticScore().update(IMAGES), "open_clip_model.safetensors", "clip_224.openai", "weights"),
        (lambda: AestheticScore().head, "sac+logos+ava1-l14-linearMSE.pth", "christophschuhmann", "head"),
        (lambda: Lpips()(IMAGES, IMAGES), "alexnet-owt-7be5be79.pth", "download.pytorch.org", "weights"),
        (lambda: TeacherAlignment("vgg").update(IMAGES, IMAGES), "vgg16-397923af.pth", "pytorch.org", "weights"),
    ],
)
def test_the_offline_sentence(offline: None, use, file: str, place: str, option: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        use()
    message = str(caught.value)
    assert f"'{file}'" in message and place in message and message.endswith(f"give its path as '{option}'.")
    assert "cannot be downloaded" in message and message.count("\n") == 0
    assert time.monotonic() - began < 20


def test_the_hub_in_offline_mode_is_said(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HPSv2 needs .*HF_HUB_OFFLINE is set"):
        HPSv2().update(IMAGES, ["a"])


def test_a_server_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An answer of any status counts as reachable; the file is then fetched and stays in the cache."""
    fetched = []

    def answer(*args: object, **kwargs: object) -> None:
        raise urllib.error.HTTPError("http://example.org", 403, "Forbidden", None, None)  # type: ignore[arg-type]

    def fetch(url: str, target: str) -> None:
        fetched.append(url)
        torch.save({"w": torch.ones(2)}, target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", answer)
    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    release = Release(("w.pth",), url="https://example.org/w.pth")
    paths = {find_weights(None, release, "A test") for _ in range(2)}
    assert paths == {tmp_path / "hub" / "checkpoints" / "w.pth"} and fetched == ["https://example.org/w.pth"]


def test_a_name_promises_its_digest(tmp_path: Path) -> None:
    content = b"anything"
    good = tmp_path / f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    good.write_bytes(content)
    release = Release((good.name,), url="https://example.org/net.pth")
    assert find_weights(str(good), release, "A test") == good
    bad = tmp_path / "net-00000000.pth"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.*example\.org"):
        find_weights(str(bad), release, "A test")
    with pytest.raises(UserError, match="does not exist"):
        find_weights(str(tmp_path / "nothing.pth"), release, "A test")
    with pytest.raises(UserError, match="is no file"):
        find_weights(str(tmp_path), release, "A test")


def test_read_weights(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(2, 3), "b": torch.ones(1)}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "bare.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "nested.pt")
    torch.save({"model": tensors}, tmp_path / "model.pth")
    for file in ("w.safetensors", "bare.pt", "nested.pt", "model.pth"):
        found = read_weights(tmp_path / file)
        assert found.keys() == tensors.keys() and torch.equal(found["a.weight"], tensors["a.weight"])
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    for file in ("text.pth", "text.safetensors", "list.pt"):
        with pytest.raises(UserError, match=file):
            read_weights(tmp_path / file)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="never loads"):
        read_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_options_are_checked_at_once() -> None:
    assert weights.SECONDS_TO_ANSWER <= 10
    for make, words in (
        (lambda: Inception(resize="lanczos"), "no resize 'lanczos'"),  # type: ignore[arg-type]
        (lambda: TimmFeatures("no_such_model"), "no model 'no_such_model'"),
        (lambda: TimmFeatures("resnet18.a1_in1k", resize="tf1"), "no resize 'tf1'"),  # type: ignore[arg-type]
        (lambda: OpenClipFeatures(resize="tf1"), "no resize 'tf1'"),  # type: ignore[arg-type]
        (lambda: CLIPScore("no-such-model"), "no model 'no-such-model'"),
        (lambda: CLIPScore("ViT-B-32"), "published as 'laion2b_s12b_b42k'.*laion2b_s34b_b79k"),
        (lambda: CLIPScore("ViT-L-14", tag="openai"), "trained as 'ViT-L-14-quickgelu'; set 'model'"),
        (lambda: CLIPScore("ViT-H-14-quickgelu", tag=None), "set 'tag' to one of .*dfn5b"),
        (lambda: HPSv2(version="v3"), "no version 'v3'"),  # type: ignore[arg-type]
        (lambda: Lpips("resnet"), "no backbone 'resnet'"),  # type: ignore[arg-type]
        (lambda: DuplicateRate(quantile=1.5), r"quantile must be in \(0, 1\)"),
    ):
        with pytest.raises(UserError, match=words):
            make()
