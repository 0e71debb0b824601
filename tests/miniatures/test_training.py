"""Autoencoders and contrastive pairs learn, and are written as folders that the libraries read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, AutoencoderKLWan
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from fastgen.data import MovingEmoji
from fastgen.data.emoji.captions import words_of
from fastgen.data.emoji.drawings import read_drawings
from fastgen.errors import UserError
from fastgen.miniatures.__main__ import main
from fastgen.miniatures.autoencoder import AutoencoderTraining, psnr, reconstruction_loss
from fastgen.miniatures.clips import ClipAutoencoderTraining
from fastgen.miniatures.contrastive import blur, contrastive_loss, true_of
from fastgen.miniatures.tokens import write_tokenizer
from fastgen.miniatures.towers import PictureTower, TowerShape
from fastgen.miniatures.training import rate
from fastgen.randomness import Draws

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "tests" / "data" / "emoji"


def config(name: str, folder: Path, **model: Any) -> Path:
    """A shipped config with tiny numbers."""
    content = yaml.safe_load((ROOT / "configs" / "miniatures" / f"{name}.yaml").read_text())
    steps = {"max_steps": 4, "val_check_interval": 2, "limit_train_batches": 2, "log_every_n_steps": 1}
    content["trainer"] |= {"accelerator": "cpu", **steps, "enable_model_summary": False}
    content["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": name},
    }
    content["trainer"]["callbacks"][0]["init_args"] = {"every_n_train_steps": 2, "save_last": True}
    data = {"font": str(EMOJI), "drawings": str(EMOJI / "drawings.txt"), "batch_size": 6, "held_out_count": 12}
    content["data"]["init_args"] |= data
    content["model"].setdefault("init_args", {}).update(model)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{name}.yaml"


def test_autoencoder(tmp_path: Path) -> None:
    small = {"channels": [8, 8], "latent_channels": 2, "groups": 2, "learning_rate": 0.003}
    path = config("vae", tmp_path, **small)
    assert main(["fit", "--config", str(path)]) == 0
    run = tmp_path / "vae" / "version_0"
    vae = AutoencoderKL.from_pretrained(run / "vae", use_safetensors=True)
    assert vae.config.latent_channels == 2 and vae.config.scaling_factor != 0.18215
    assert (run / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size < 60_000, "fp16"
    rows = [json.loads(line) for line in (run / "measured.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [2, 4] and rows[1]["psnr"] > rows[0]["psnr"]
    # It goes on where it stopped: weights, learning rate, samples and processor time.
    last = run / "checkpoints" / "last.ckpt"
    options = ["--trainer.max_steps", "6", "--ckpt_path", str(last)]
    assert main(["fit", "--config", str(path), *options]) == 0
    more = [json.loads(row) for row in (tmp_path / "vae/version_1/measured.jsonl").read_text().splitlines()]
    assert [row["update"] for row in more] == [6] and more[0]["cpu_minutes"] >= rows[1]["cpu_minutes"]
    saved = torch.load(tmp_path / "vae/version_1/checkpoints/last.ckpt", weights_only=True)
    assert saved["Emoji"]["samples_seen"] == 36


def test_autoencoder_of_clips(tmp_path: Path) -> None:
    small = {"width": 8, "multiples": [1, 1], "slower": [True], "latent_channels": 2, "learning_rate": 0.01}
    assert main(["fit", "--config", str(config("wan_vae", tmp_path, **small))]) == 0
    run = tmp_path / "wan_vae" / "version_0"
    vae = AutoencoderKLWan.from_pretrained(run / "vae", use_safetensors=True).float()
    assert (vae.config.scale_factor_temporal, vae.config.scale_factor_spatial) == (2, 2)
    clips = MovingEmoji(str(EMOJI), str(EMOJI / "drawings.txt")).sources[1].batch(range(6))["x0"]
    latents = vae.encode(clips).latent_dist.mode()
    assert latents.shape == (6, 2, 5, 16, 16) and vae.decode(latents).sample.shape == clips.shape
    mean, std = (torch.tensor(vae.config[name]).reshape(1, 2, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    normal = ((latents - mean) / std).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2), atol=0.3, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(2), atol=0.3, rtol=0)
    rows = [json.loads(line) for line in (run / "measured.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [2, 4] and rows[1]["psnr"] != rows[0]["psnr"] > 0
    with pytest.raises(UserError, match="slower has 2 entries, got 1"):
        ClipAutoencoderTraining(slower=(True,))


def test_contrastive_pair(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokens", words_of(list(read_drawings(str(EMOJI / "drawings.txt")))))
    shape = {"channels": [8, 8, 8], "features": 8}
    model = {"tokenizer": str(tmp_path / "tokens"), "width": 8, "layers": 1, "shape": shape, "blurred": 0.5}
    assert main(["fit", "--config", str(config("judge", tmp_path, **model))]) == 0
    pair = tmp_path / "judge" / "version_0" / "judge"
    tower = PictureTower.from_pretrained(pair / "image_encoder")
    vectors = tower(torch.zeros(2, 3, 32, 32))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
    text = CLIPTextModelWithProjection.from_pretrained(pair / "text_encoder", use_safetensors=True)
    tokens = CLIPTokenizer.from_pretrained(pair / "tokenizer")("a red apple", return_tensors="pt")
    assert text(**tokens).text_embeds.shape == (1, 8)
    row = json.loads((tmp_path / "judge/version_0/measured.jsonl").read_text().splitlines()[-1])
    assert set(row) == {"update", "cpu_minutes", "retrieval", "sharp_preferred"} and 0 <= row["retrieval"] <= 1


def test_losses() -> None:
    pictures = torch.zeros(2, 3, 4, 4)
    assert float(reconstruction_loss(pictures, pictures)) == 0
    assert float(reconstruction_loss(pictures + 0.5, pictures)) == pytest.approx(0.75), "flat errors have no edges"
    step = torch.zeros(1, 1, 1, 2)
    step[..., 1] = 1.0
    assert float(reconstruction_loss(step, torch.zeros(1, 1, 1, 2))) != float(reconstruction_loss(step, step))
    clip = torch.zeros(1, 1, 2, 1, 1)
    clip[:, :, 1] = 1.0
    # Half of the frames are wrong by one: absolute and squared error of 1/2 each, and an edge of one in time.
    assert float(reconstruction_loss(clip.expand(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2))) == 2.0
    assert psnr(4.0) == 0 and psnr(0.04) == pytest.approx(20.0)
    model = AutoencoderTraining(channels=(8, 8), latent_channels=2, groups=2)
    batch = {"x0": torch.zeros(2, 3, 8, 8), "index": torch.arange(2)}
    twice = [model.loss(batch, Draws(0, [0, 1], "part")) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(twice[0].values(), twice[1].values(), strict=True))


def test_a_true_caption_of_another_picture_is_no_wrong_answer() -> None:
    said, shown = torch.tensor([[0, -1], [0, 1], [1, 1]]), torch.tensor([[0, 0], [0, 1], [1, 1]])
    true = true_of(said, shown)
    assert true.tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    vectors = torch.eye(3)
    vectors[1] = vectors[0]  # pictures of one drawing, whose first caption fits both
    scale = torch.tensor(50.0)
    strict = contrastive_loss(vectors, vectors, scale, torch.eye(3, dtype=torch.bool), None)
    told = contrastive_loss(vectors, vectors, scale, true, None)
    assert float(strict) > 0.4 > float(told) > 0
    assert float(contrastive_loss(vectors, vectors, scale, true, vectors)) > float(told) + 0.3


def test_blur() -> None:
    picture = torch.zeros(2, 3, 15, 15)
    picture[:, :, 7, 7] = 1.0
    soft = blur(picture, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(soft.sum((2, 3)), torch.ones(2, 3))
    assert float(soft[0, 0, 7, 7]) > 0.5 > 0.1 > float(soft[1, 0, 7, 7]) > 0
    torch.testing.assert_close(soft, soft.transpose(2, 3))
    torch.testing.assert_close(blur(torch.ones(1, 3, 9, 9), torch.ones(1)), torch.ones(1, 3, 9, 9))


def test_learning_rate() -> None:
    assert rate(0, 1000) == 0.01 and rate(99, 1000) == 1 and rate(500, 1000) == 1
    assert rate(750, 1000) == pytest.approx(0.51) and rate(1000, 1000) == pytest.approx(0.02) == rate(2000, 1000)


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and "Give a command" in capsys.readouterr().err
    assert main(["pipeline", "--like", str(tmp_path), "--out", str(tmp_path), "--part", "unet"]) == 2
    assert "NAME=PATH" in capsys.readouterr().err
    PictureTower(TowerShape((8, 8), 8, 8)).save_pretrained(tmp_path / "tower")
    (tmp_path / "tower" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(Exception, match="not a readable safetensors"):
        PictureTower.from_pretrained(tmp_path / "tower")
