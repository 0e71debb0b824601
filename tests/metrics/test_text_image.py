"""Scores against open_clip and transformers called directly, on small models whose files the tests write."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_clip
import torch
from PIL import Image
from tiny_clip import PROMPTS, pictures

from fastgen.errors import UserError
from fastgen.metrics.extractors.open_clip_features import OpenClipFeatures
from fastgen.metrics.extractors.resize import standardise
from fastgen.metrics.text.text_image import AestheticScore, CLIPScore, EmbeddingScore, HPSv2, PickScore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("clip")
    tiny_clip.register(path)
    return path


@pytest.fixture(scope="module")
def weights(folder: Path) -> str:
    return tiny_clip.save(tiny_clip.model().state_dict(), folder / "weights.safetensors")


def directly(images: torch.Tensor, texts: list[str], file: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised embeddings as open_clip's own examples compute them."""
    model, _, transform = open_clip.create_model_and_transforms(tiny_clip.NAME, pretrained=file)
    model.eval()
    with torch.no_grad():
        image = model.encode_image(torch.stack([transform(tiny_clip.as_pillow(i)) for i in images]), normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(tiny_clip.NAME)(texts), normalize=True)
    return image, text


def measure(metric: EmbeddingScore, images: torch.Tensor, prompts: list[str] | None = PROMPTS) -> dict[str, float]:
    for start in range(0, len(images), 2):
        metric.update(images[start : start + 2], None if prompts is None else prompts[start : start + 2])
    return metric.compute()


@pytest.mark.parametrize("file", ["w.pt", "training.pt", "w.safetensors"])
@pytest.mark.parametrize("shape", [(48, 48), (40, 70), (20, 20)])
def test_clip_score_equals_open_clip(folder: Path, file: str, shape: tuple[int, int]) -> None:
    path = tiny_clip.save(tiny_clip.model().state_dict(), folder / file)
    images = pictures(5, *shape)
    image, text = directly(images, PROMPTS, path)
    expected = float((image * text).sum(dim=1).mean())
    metric = CLIPScore(tiny_clip.NAME, path, tag=None)
    numbers = measure(metric, images)
    assert numbers["clip_score"] == pytest.approx(expected, abs=2e-4)  # Pillow rounds its weights to 22 bits
    pairs = [1 - float(image[a] @ image[b]) for a, b in itertools.combinations(range(5), 2)]
    assert numbers["clip_score_diversity"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)
    assert metric.state_dict() == {} and not list(metric.parameters())
    assert metric.fingerprint().startswith(f"clip_score/{tiny_clip.NAME}/shortest/sha256:")


def test_three_formats_are_bit_equal(folder: Path, weights: str) -> None:
    files = [weights, *(tiny_clip.save(tiny_clip.model().state_dict(), folder / f) for f in ("b.pt", "training2.pt"))]
    numbers = [measure(CLIPScore(tiny_clip.NAME, file, tag=None), pictures()) for file in files]
    assert numbers[0] == numbers[1] == numbers[2]


def test_a_prefix_is_part_of_the_text_and_of_the_fingerprint(weights: str) -> None:
    prefix = "A photo depicts "
    metric = CLIPScore(tiny_clip.NAME, weights, tag=None, prefix=prefix)
    image, text = directly(pictures(), [prefix + prompt for prompt in PROMPTS], weights)
    assert measure(metric, pictures())["clip_score"] == pytest.approx(float((image * text).sum(1).mean()), abs=2e-4)
    assert "prefix:'A photo depicts '" in metric.fingerprint()


def test_images_can_be_scaled_first(weights: str) -> None:
    """As DMD2's ``coco_evaluator.py``: the square centre, Pillow's Lanczos, then open_clip's own resize."""
    images = pictures(5, 40, 70)
    squares = [tiny_clip.as_pillow(image[:, :, 15:55]).resize((24, 24), Image.Resampling.LANCZOS) for image in images]
    scaled = torch.stack([torch.from_numpy(np.array(square)).permute(2, 0, 1) for square in squares])
    image, text = directly(scaled, PROMPTS, weights)
    metric = CLIPScore(tiny_clip.NAME, weights, tag=None, lanczos=24)
    assert measure(metric, images)["clip_score"] == pytest.approx(float((image * text).sum(1).mean()), abs=2e-4)
    assert measure(CLIPScore(tiny_clip.NAME, weights, tag=None), images) != measure(metric, images)
    assert "/lanczos24+shortest/" in metric.fingerprint()


def test_hps_equals_the_official_recipe(folder: Path) -> None:
    """ToTensor, longest side to the input size, centred black padding, normalise; 100 times the cosine."""
    from torchvision.transforms import functional

    path = tiny_clip.save(tiny_clip.model(1).state_dict(), folder / "training_HPS_v2.1_compressed.pt")
    images = pictures(5, 48, 80)
    prepared = []
    for image in images:
        x = functional.to_tensor(tiny_clip.as_pillow(image))
        x = functional.resize(x, [round(48 * 32 / 80), 32], functional.InterpolationMode.BICUBIC)
        x = functional.pad(x, [0, (32 - 19) // 2, 0, 32 - 19 - (32 - 19) // 2])
        prepared.append(
            functional.normalize(x, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        )
    model = tiny_clip.model(1)
    with torch.no_grad():
        image = model.encode_image(torch.stack(prepared), normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(tiny_clip.NAME)(PROMPTS), normalize=True)
    cosines = 100 * (image @ text.T).diagonal()
    metric = HPSv2(path, styles=["anime", "photo"], model=tiny_clip.NAME)
    metric.update(images[:3], PROMPTS[:3], ["anime", "photo", "anime"])
    metric.update(images[3:], PROMPTS[3:], ["photo", "photo"])
    numbers = metric.compute()
    assert numbers["hps_v2.1"] == pytest.approx(float(cosines.mean()), abs=1e-3)
    assert numbers["hps_v2.1_anime"] == pytest.approx(float(cosines[[0, 2]].mean()), abs=1e-3)
    assert numbers["hps_v2.1_photo"] == pytest.approx(float(cosines[[1, 3, 4]].mean()), abs=1e-3)
    assert "hps_v2.0" in HPSv2(path, "v2.0", model=tiny_clip.NAME).name
    plain = HPSv2(path, antialias=False, model=tiny_clip.NAME)
    assert measure(plain, images)["hps_v2.1"] != pytest.approx(numbers["hps_v2.1"], abs=1e-3)
    assert "longest-float-plain" in plain.fingerprint()


def transformers_clip() -> Any:
    """The small model as transformers has it, with weights of its own."""
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = vision | {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu", "eos_token_id": 49407}
    text |= {"bos_token_id": 49406, "pad_token_id": 0}
    config = CLIPConfig(
        text_config=text,
        vision_config=vision | {"image_size": 32, "patch_size": 8, "hidden_act": "gelu"},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = CLIPModel(config)
        for parameter in model.parameters():
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.2
        model.logit_scale.data.fill_(2.3)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_pick_score_equals_transformers(folder: Path, name: str) -> None:
    model = transformers_clip()
    model.save_pretrained(folder / "pick")
    from safetensors.torch import load_file

    tensors = load_file(folder / "pick" / "model.safetensors")
    if name.endswith("bin"):  # older files count their positions too
        tensors |= {f"{tower}_model.embeddings.position_ids": torch.arange(5)[None] for tower in ("text", "vision")}
    path = tiny_clip.save(tensors, folder / name)
    images = pictures(5, 32, 32)
    tokens = open_clip.get_tokenizer(tiny_clip.NAME)(PROMPTS)
    pixels = standardise(
        images.float(), *[tuple(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)]
    )
    with torch.no_grad():
        expected = model(input_ids=tokens, pixel_values=pixels).logits_per_image.diagonal()
    numbers = measure(PickScore(path, model=tiny_clip.NAME), images)
    assert numbers["pick_score"] == pytest.approx(float(expected.mean()), rel=1e-4)
    # A checkpoint of open_clip will do as well.
    own = tiny_clip.save(tiny_clip.model().state_dict(), folder / "own.pt")
    image, text = directly(images, PROMPTS, own)
    scale = float(tiny_clip.model().logit_scale.exp())
    assert measure(PickScore(own, model=tiny_clip.NAME), images)["pick_score"] == pytest.approx(
        scale * float((image * text).sum(1).mean()), abs=5e-3
    )


def test_aesthetic_with_both_heads(folder: Path, weights: str) -> None:
    torch.manual_seed(3)
    images = pictures(5, 32, 32)
    image, _ = directly(images, PROMPTS, weights)
    linear = torch.nn.Linear(16, 1)
    torch.save(linear.state_dict(), folder / "linear.pth")
    layers = [
        torch.nn.Linear(16, 12),
        torch.nn.Dropout(),
        torch.nn.Linear(12, 6),
        torch.nn.Dropout(),
        torch.nn.Linear(6, 1),
    ]
    stack = torch.nn.Sequential(*layers).eval()
    torch.save({f"layers.{k}": v for k, v in stack.state_dict().items()}, folder / "stack.pth")
    for head, file in ((linear, "linear.pth"), (stack, "stack.pth")):
        metric = AestheticScore(str(folder / file), weights, tiny_clip.NAME, tag=None)
        with torch.no_grad():
            expected = float(head(image).mean())
        numbers = measure(metric, images, None)
        assert numbers["aesthetic"] == pytest.approx(expected, abs=1e-4)
        assert "/head:" in metric.fingerprint()
    torch.save(torch.nn.Linear(15, 1).state_dict(), folder / "wrong.pth")
    with pytest.raises(UserError, match="does not map"):
        measure(AestheticScore(str(folder / "wrong.pth"), weights, tiny_clip.NAME, tag=None), images, None)


def test_one_picture_for_all_prompts_has_no_diversity(weights: str) -> None:
    images = pictures(1).expand(5, -1, -1, -1)
    numbers = measure(CLIPScore(tiny_clip.NAME, weights, tag=None), images)
    assert numbers["clip_score_diversity"] == pytest.approx(0, abs=1e-6)
    varied = measure(CLIPScore(tiny_clip.NAME, weights, tag=None), pictures(5))
    assert varied["clip_score_diversity"] > 0.01


def test_mistakes_are_named(folder: Path, weights: str) -> None:
    metric = CLIPScore(tiny_clip.NAME, weights, tag=None, styles=["photo"])
    with pytest.raises(UserError, match="needs the prompts"):
        metric.update(pictures())
    with pytest.raises(UserError, match="4 prompts for 5 images"):
        metric.update(pictures(), PROMPTS[:4])
    with pytest.raises(UserError, match="2 styles for 5 images"):
        metric.update(pictures(), PROMPTS, ["photo", "photo"])
    with pytest.raises(UserError, match="no style 'anime'"):
        metric.update(pictures(), PROMPTS, ["anime"] * 5)
    with pytest.raises(UserError, match="uint8 RGB"):
        metric.update(pictures().float(), PROMPTS)
    with pytest.raises(UserError, match="seen no image"):
        metric.compute()
    with pytest.raises(UserError, match="no published weights; give a file"):
        CLIPScore(tiny_clip.NAME, tag=None).update(pictures(), PROMPTS)
    torch.save({"visual.proj": torch.zeros(2)}, folder / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt' does not fit fastgen-tiny-clip"):
        CLIPScore(tiny_clip.NAME, str(folder / "other.pt"), tag=None).update(pictures(), PROMPTS)
    (folder / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match="is damaged or holds pickled"):
        CLIPScore(tiny_clip.NAME, str(folder / "text.pt"), tag=None).update(pictures(), PROMPTS)


def test_a_text_tower_from_the_hub_is_named_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    import urllib.error

    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    score = CLIPScore("roberta-ViT-B-32", weights, tag="laion2b_s12b_b32k")
    with pytest.raises(UserError, match="hf download roberta-base"):
        score.update(pictures(), PROMPTS)


def test_extractor(weights: str) -> None:
    images = pictures(4, 40, 70)
    model, _, transform = open_clip.create_model_and_transforms(tiny_clip.NAME, pretrained=weights)
    with torch.no_grad():
        expected = model.eval().encode_image(torch.stack([transform(tiny_clip.as_pillow(i)) for i in images]))
    extractor = OpenClipFeatures(tiny_clip.NAME, weights, tag=None)
    assert extractor.num_features == 16
    torch.testing.assert_close(extractor(images), expected, rtol=0, atol=0.02 * float(expected.abs().mean()))
    cmmd = OpenClipFeatures(tiny_clip.NAME, weights, tag=None, resize="plain", normalise=True)
    pixels = torch.nn.functional.interpolate(images.float() / 255, (32, 32), mode="bicubic")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        expected = model.encode_image((pixels - mean) / std, normalize=True)
    torch.testing.assert_close(cmmd(images), expected, rtol=1e-4, atol=1e-5)
    assert cmmd.fingerprint().startswith(f"open_clip_{tiny_clip.NAME}/plain-normalised/sha256:")
    with pytest.raises(UserError, match="RGB"):
        extractor(images[:, :1])
