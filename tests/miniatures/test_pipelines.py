"""Pipeline folders out of configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3

from fastgen.denoisers import StableDiffusion, StableDiffusion3, Wan
from fastgen.denoisers.diffusers import pipeline_files
from fastgen.errors import UserError
from fastgen.miniatures.__main__ import main
from fastgen.miniatures.pipelines import make_pipeline
from fastgen.storage.files import save_tensors

ROOT = Path(__file__).parents[2]


def without_weights(folder: Path) -> Path:
    """A pipeline of which only configurations are left."""
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


@pytest.mark.parametrize(
    ("write", "family"), [(write_tiny_pipeline, StableDiffusion), (write_tiny_sd3, StableDiffusion3)]
)
def test_from_configurations_alone(tmp_path: Path, write, family) -> None:
    like = without_weights(write(tmp_path / "like"))
    before = torch.random.get_rng_state()
    make_pipeline(like, tmp_path / "a", {})
    make_pipeline(like, tmp_path / "b", {})
    make_pipeline(like, tmp_path / "c", {}, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())

    def weights(name: str) -> torch.Tensor:
        network = family(str(tmp_path / name))
        network.load_weights()
        return torch.cat([p.flatten() for p in network.parameters()])

    assert torch.equal(weights("a"), weights("b")) and not torch.equal(weights("a"), weights("c"))
    network = family(str(tmp_path / "a"))
    condition = network.make_codec().encode_condition({"prompt": ["a cat"]})
    assert network(torch.zeros(1, *network.sample_shape), torch.tensor([0.5]), condition).x0.isfinite().all()


def test_parts_are_taken_over(tmp_path: Path) -> None:
    other = write_tiny_pipeline(tmp_path / "other", seed=3)
    like = without_weights(write_tiny_pipeline(tmp_path / "like"))
    words = ["--like", str(like), "--out", str(tmp_path / "out"), "--part", f"vae={other / 'vae'}"]
    assert main(["pipeline", *words]) == 0
    a, b = (StableDiffusion(str(folder)).make_codec() for folder in (tmp_path / "out", other))
    picture = torch.rand(1, 3, 16, 16)
    assert torch.equal(a.encode(picture), b.encode(picture))
    prompt = {"prompt": ["a cat"]}
    assert not torch.equal(a.encode_condition(prompt)["prompt_embeds"], b.encode_condition(prompt)["prompt_embeds"])


def test_a_trained_network_comes_back_into_its_folder(tmp_path: Path) -> None:
    like = write_tiny_pipeline(tmp_path / "like")
    trained = StableDiffusion(str(like))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.uniform_(-1, 1)
    save_tensors(tmp_path / "student.safetensors", trained.state_dict())
    make_pipeline(like, tmp_path / "out", {"unet": tmp_path / "student.safetensors"}, half=True)
    again = StableDiffusion(str(tmp_path / "out"))
    again.load_weights()
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "out").rglob("*.json"))
    sizes = [(tmp_path / f / "unet/diffusion_pytorch_model.safetensors").stat().st_size for f in ("like", "out")]
    assert sizes[1] < 0.6 * sizes[0]


def test_miniatures_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_files, "ASSETS", tmp_path)
    with pytest.raises(UserError, match=r"'emoji-sd' is not part of this installation"):
        StableDiffusion("emoji-sd")
    write_tiny_pipeline(tmp_path / "miniatures" / "emoji-sd")
    network = StableDiffusion("emoji-sd")
    network.load_weights()
    assert network.pipeline.is_local and network.pipeline.pretrained == "emoji-sd"
    assert network.make_codec().encode(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)


def test_mistakes(tmp_path: Path) -> None:
    like = without_weights(write_tiny_pipeline(tmp_path / "like"))
    with pytest.raises(UserError, match="no part 'unett'"):
        make_pipeline(like, tmp_path / "out", {"unett": like / "unet"})
    (like / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no vocabulary"):
        make_pipeline(like, tmp_path / "out", {})
    shutil.rmtree(like / "unet")
    with pytest.raises(UserError, match=r"unet' is missing|no vocabulary"):
        make_pipeline(like, tmp_path / "out", {})
    index = json.loads((like / "model_index.json").read_text())
    index["vae"] = ["os", "system"]
    (like / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"os\.system"):
        make_pipeline(like, tmp_path / "out", {})


def test_entries_are_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    like = write_tiny_sd3(tmp_path / "like", long_text=False)
    words = ["pipeline", "--like", str(like), "--out", str(tmp_path / "out")]
    assert main([*words, "--set", "vae.shift_factor=0.0", "--set", "vae.scaling_factor=2.0"]) == 0
    config = json.loads((tmp_path / "out" / "vae" / "config.json").read_text())
    assert config["shift_factor"] == 0.0 and config["scaling_factor"] == 2.0
    before, after = (StableDiffusion3(str(folder)).make_codec() for folder in (like, tmp_path / "out"))
    picture = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(after.encode(picture), 2.0 * (before.encode(picture) / 1.5305 + 0.0609))
    for wrong in (
        "vae.shift=0.0",
        "scheduler.shift=3.0",
        "vea.shift_factor=0.0",
        "vae.shift_factor",
        "vae.shift_factor=x",
    ):
        assert main([*words, "--set", wrong]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "'vae' has no entry 'shift'" in said[-5] and "'scheduler' has no entry 'shift'" in said[-4]
    assert "no part 'vea'" in said[-3] and all("--set is PART.ENTRY=VALUE" in line for line in said[-2:])


@pytest.mark.parametrize(
    ("name", "family", "options", "size"),
    [("emoji-sd", StableDiffusion, {}, 4e6), ("emoji-sd3", StableDiffusion3, {"max_tokens": 1}, 5.4e6)],
)
def test_the_shipped_configurations(tmp_path: Path, name: str, family, options, size: float) -> None:
    """They belong together: the miniature's VAE and text encoder of the default arguments fit its network."""
    from fastgen.miniatures.autoencoder import AutoencoderTraining
    from fastgen.miniatures.tokens import write_tokenizer
    from fastgen.miniatures.towers import make_text_tower

    AutoencoderTraining().write(tmp_path / "vae")
    write_tokenizer(tmp_path / "tokenizer", ["a", "cat"])
    make_text_tower(600, 20, 96, 2).save_pretrained(tmp_path / "text_encoder")
    parts = {part: tmp_path / part for part in ("vae", "tokenizer", "text_encoder")}
    if name == "emoji-sd3":
        parts |= {f"{part}_2": parts[part] for part in ("tokenizer", "text_encoder")}
    entries = {"vae": {"shift_factor": 0.0}}
    make_pipeline(ROOT / "configs" / "miniatures" / name, tmp_path / "out", parts, entries=entries)
    network = family(str(tmp_path / "out"), **options)
    network.load_weights()
    assert network.sample_shape == (8, 8, 8) and 0.9 * size < sum(p.numel() for p in network.parameters()) < 1.1 * size
    codec = network.make_codec()
    assert codec.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8, 8)
    condition = codec.encode_condition({"prompt": ["a cat"]})
    assert network(torch.zeros(1, 8, 8, 8), torch.tensor([0.5]), condition).value.shape == (1, 8, 8, 8)


def test_the_shipped_configurations_of_clips(tmp_path: Path) -> None:
    """Wan's text encoder begins at random, and may stay so."""
    from fastgen.miniatures.clips import ClipAutoencoderTraining

    ClipAutoencoderTraining().write(tmp_path / "vae")
    assert main(["tokenizer", "--kind=t5", f"--out={tmp_path / 'tokenizer'}"]) == 0
    parts = {part: tmp_path / part for part in ("vae", "tokenizer")}
    make_pipeline(ROOT / "configs" / "miniatures" / "emoji-wan", tmp_path / "out", parts)
    network = Wan(str(tmp_path / "out"), height=32, width=32, frames=9, max_tokens=24)
    network.load_weights()
    assert network.sample_shape == (16, 3, 8, 8) and 1.7e6 < sum(p.numel() for p in network.parameters()) < 1.8e6
    codec = network.make_codec()
    assert codec.encode(torch.zeros(1, 3, 9, 32, 32)).shape == (1, 16, 3, 8, 8)
    condition = codec.encode_condition({"prompt": ["a fox moves left", "a fox moves up"]})
    embeds = condition["prompt_embeds"]
    assert embeds.shape == (2, 24, 96) and float((embeds[0, 3] - embeds[1, 3]).abs().mean()) > 0.1
    assert network(torch.zeros(2, 16, 3, 8, 8), torch.tensor([0.5, 0.5]), condition).value.shape == (2, 16, 3, 8, 8)
