"""The shipped weights are those that the README beside them describes, and the libraries read them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from data.test_emoji import emoji
from diffusers import AutoencoderKL
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from fastgen.metrics import EmojiJudge
from fastgen.miniatures.contrastive import true_of
from fastgen.miniatures.towers import PictureTower, embed_texts
from fastgen.storage.files import ASSETS, sha256

FOLDER = ASSETS / "miniatures"


def pair(folder: Path) -> tuple[PictureTower, CLIPTextModelWithProjection, CLIPTokenizer]:
    """Both towers and the tokenizer of a contrastive pair."""
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", use_safetensors=True).float().eval()
    tower = PictureTower.from_pretrained(folder / "image_encoder")
    return tower, text, CLIPTokenizer.from_pretrained(folder / "tokenizer")


def test_hashes() -> None:
    told = dict(re.findall(r"^\| `(\S+\.safetensors)` \| (\w{64}) \|$", (FOLDER / "README.md").read_text(), re.M))
    assert told == {p.relative_to(FOLDER).as_posix(): sha256(p) for p in FOLDER.rglob("*.safetensors")}


@torch.no_grad()
def test_autoencoder() -> None:
    vae = AutoencoderKL.from_pretrained(FOLDER / "emoji-vae", use_safetensors=True).float().eval()
    x0 = emoji().sources[2].batch(range(32))["x0"]
    latents = vae.encode(x0).latent_dist.mode()
    error = (vae.decode(latents).sample.clamp(-1, 1) - x0).square().mean()
    # The drawings of the tests were shrunk twice, so they are not quite the training's.
    assert latents.shape == (32, 8, 8, 8) and 10 * math.log10(4 / float(error)) > 27
    assert 0.8 < float(latents.std() * vae.config.scaling_factor) < 1.2


@pytest.mark.parametrize("name", ["emoji-clip", "emoji-judge"])
@torch.no_grad()
def test_contrastive_pairs(name: str) -> None:
    tower, text, tokenizer = pair(FOLDER / name)
    batch = emoji().sources[2].batch(range(60))
    tokens = tokenizer(batch["condition"]["prompt"], padding="max_length", truncation=True, return_tensors="pt")
    nearest = (tower(batch["x0"]) @ embed_texts(text, tokens.input_ids).T).argmax(1, keepdim=True)
    true = true_of(batch["facts"]["said"], batch["facts"]["shown"])
    assert float(true.gather(1, nearest).float().mean()) > 0.9


@torch.no_grad()
def test_classifiers() -> None:
    judge, data = EmojiJudge(), emoji()
    pictures, shown = data.pictures_of(1)
    right = judge.seen(judge(pictures)) == judge.numbers([vars(picture) for picture in shown])
    assert [len(values) for values in judge.classes.values()] == [303, 8, 2, 5]
    assert right.double().mean(0).min() > 0.95, "the drawings of the tests were shrunk twice"
