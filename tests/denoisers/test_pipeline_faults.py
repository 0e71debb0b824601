"""Folders of pipelines with something missing, broken or foreign work as diffusers would, or one sentence says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from denoisers.families import FAMILIES, FLUX, SD3, SDXL
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_sdxl import write_tiny_sdxl

from fastgen.denoisers import Flux, StableDiffusion, StableDiffusion3, StableDiffusionXL
from fastgen.denoisers.diffusers.pipeline_files import missing_library, usable_variant, variants
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.errors import UserError

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "pipeline")


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def forget(file: Path, name: str) -> None:
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != name}))


def use(folder: Path) -> None:
    denoiser = StableDiffusion(str(folder))
    denoiser.load_weights()
    denoiser.make_codec().encode_condition({"prompt": ["a cat"]})


def shards(folder: Path) -> list[Path]:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    return sorted((folder / "unet").glob("*.safetensors"))


def left_out(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")
    edit(folder / "model_index.json", text_encoder=[None, None])


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"][0] = float("nan")
    save_file(tensors, file, {"format": "pt"})


FAULTS: dict[str, tuple[Change, str]] = {
    "no config": (lambda p: (p / "unet/config.json").unlink(), r"unet/config.json' is missing"),
    "no config of an encoder": (
        lambda p: (p / "text_encoder/config.json").unlink(),
        r"text_encoder/config.json' is missing",
    ),
    "broken config": (lambda p: (p / "unet/config.json").write_text("{"), r"unet/config.json' is not JSON"),
    "a list as config": (lambda p: (p / "unet/config.json").write_text("[1]"), "holds no JSON object"),
    "a scheduler that is a list": (
        lambda p: (p / "scheduler/scheduler_config.json").write_text("[]"),
        "holds no JSON object",
    ),
    "impossible config": (
        lambda p: edit(p / "unet/config.json", block_out_channels=[-1, 64]),
        r"config.json' describes no UNet2DConditionModel",
    ),
    "another class": (
        lambda p: edit(p / "unet/config.json", _class_name="FluxTransformer2DModel"),
        "is a FluxTransformer2DModel, where this family has a UNet2DConditionModel",
    ),
    "other shapes": (lambda p: edit(p / "unet/config.json", cross_attention_dim=48), "have other shapes"),
    "other shapes of an encoder": (
        lambda p: edit(p / "text_encoder/config.json", intermediate_size=128),
        "text_encoder' have other shapes",
    ),
    "not a number": (not_finite, "not finite, first in 'conv_in.bias'"),
    "quantised encoder": (
        lambda p: edit(p / "text_encoder/config.json", quantization_config={"quant_method": "gptq"}),
        r"text_encoder' is quantised \(gptq\)",
    ),
    "left-out encoder": (left_out, "was saved without 'text_encoder'"),
    "forgotten encoder": (
        lambda p: shutil.rmtree(p / "text_encoder"),
        "no folder 'text_encoder', which its model_index.json names",
    ),
    "missing shard": (lambda p: shards(p)[1].unlink(), r"lacks '.*-00002-of-\d+.safetensors', which its .*index"),
    "broken shard": (lambda p: shards(p)[1].write_bytes(b"1"), r"-00002-of-\d+.safetensors' is damaged"),
    "missing index": (
        lambda p: shards(p)[0].with_name("diffusion_pytorch_model.safetensors.index.json").unlink(),
        "shards of its weights but no .index.json",
    ),
    "no vocabulary": (lambda p: (p / "tokenizer/tokenizer.json").unlink(), "has no vocabulary"),
    "broken vocabulary": (lambda p: (p / "tokenizer/tokenizer.json").write_text("{"), "is not JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_own_sentence(folder: Path, name: str):
    change, says = FAULTS[name]
    change(folder)
    with pytest.raises(UserError, match=says) as caught:
        use(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_sharded_weights_are_read(folder: Path, kept: Path):
    assert len(shards(folder)) > 2
    ours, theirs = StableDiffusion(str(folder)), StableDiffusion(str(kept))
    for denoiser in (ours, theirs):
        denoiser.load_weights()
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_another_pipeline_is_named(kept: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is a StableDiffusionPipeline, which has no folder 'transformer'"):
        Flux(str(kept))
    flux = write_tiny_flux(tmp_path / "flux")
    with pytest.raises(UserError, match="is a FluxTransformer2DModel, where this family has a SD3Transformer2DModel"):
        StableDiffusion3(str(flux))
    shutil.rmtree(flux / "text_encoder_2")
    edit(flux / "model_index.json", text_encoder_2=[None, None])
    with pytest.raises(UserError, match="saved without 'text_encoder_2', which is needed here; give a FluxPipeline"):
        Flux(str(flux), resolution=16).make_codec().encode_condition({"prompt": ["a"]})


# ---------------------------------------------------------------------- variants


def as_variant(folder: Path, variant: str, *parts: str) -> None:
    """Rename the weights of some parts."""
    for part in parts:
        file = next((folder / part).glob("*.safetensors"))
        file.rename(file.with_suffix(f".{variant}.safetensors"))


@pytest.mark.parametrize("family", [SDXL, FLUX, SD3], ids=lambda family: family.__name__)
def test_a_folder_of_one_variant_is_read_and_exported(family: type, tmp_path: Path):
    family = family()
    folder = family.write(tmp_path / "pipeline")
    parts = [family.part, "vae", *(name for name in family.encoders if "encoder" in name)]
    expected = family.build(folder)
    expected.load_weights()
    as_variant(folder, "fp16", *parts)
    denoiser = family.build(folder)
    denoiser.load_weights()
    assert all(map(torch.equal, denoiser.state_dict().values(), expected.state_dict().values()))
    denoiser.make_codec().encode_condition({"prompt": ["a cat"]})
    assert type(denoiser.pipeline.assemble({})).__name__ == family.pipeline


def test_which_variant(tmp_path: Path):
    def write(part: str, *names: str) -> None:
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).touch()

    write("plain", "model.safetensors")
    write("half", "model.fp16.safetensors")
    write("both", "model.safetensors", "model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors")
    write("old", "diffusion_pytorch_model-00001-of-00001.bf16.safetensors", "diffusion_pytorch_model.fp16.safetensors")
    assert variants(tmp_path / "both") == {None, "fp16"} and variants(tmp_path / "old") == {"bf16", "fp16"}
    chosen = {
        (part, wanted): usable_variant(tmp_path, part, wanted)
        for part, wanted in [("plain", None), ("half", None), ("both", None), ("both", "fp16"), ("plain", "fp16")]
    }
    assert list(chosen.values()) == [None, "fp16", None, "fp16", None]  # the last: saved as fp16 in other parts
    with pytest.raises(UserError, match=r"no weights of the variant 'fp32', but fp16, the plain one; change 'variant'"):
        usable_variant(tmp_path, "both", "fp32")
    with pytest.raises(UserError, match="of the variants bf16, fp16 only; set 'variant'"):
        usable_variant(tmp_path, "old", None)


# ---------------------------------------------------------------------- tokenizers and prompts


@pytest.mark.parametrize("write", [write_tiny_pipeline, write_tiny_sdxl, write_tiny_sd3], ids=["sd15", "sdxl", "sd3"])
def test_a_tokenizer_without_a_length_gives_what_its_encoder_reads(write: Callable[..., Path], tmp_path: Path):
    kind = {write_tiny_pipeline: StableDiffusion, write_tiny_sdxl: StableDiffusionXL}.get(write, StableDiffusion3)
    folder = write(tmp_path)
    expected = kind(str(folder)).make_codec().encode_condition({"prompt": ["a cat"]})
    for tokenizer in folder.glob("tokenizer*"):
        forget(tokenizer / "tokenizer_config.json", "model_max_length")
    found = kind(str(folder)).make_codec().encode_condition({"prompt": ["a cat"]})
    assert all(map(torch.equal, found.values(), expected.values()))


def test_an_encoder_with_fewer_positions_than_its_tokenizer_counts(folder: Path):
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=40)
    embeds = StableDiffusion(str(folder)).make_codec().encode_condition({"prompt": ["a b c d e f g h i j k l m n o p"]})
    assert embeds["prompt_embeds"].shape[1] == 16


@pytest.mark.parametrize("name", ["StableDiffusion", *FAMILIES])
def test_a_cut_prompt_is_said_once(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """16 tokens of the tiny CLIPs, 24 of the long encoders here; to tiny Qwen-Image's the chat alone is 99 longer."""
    if name == "StableDiffusion":
        denoiser = StableDiffusion(str(write_tiny_pipeline(tmp_path)))
    else:
        family = FAMILIES[name]
        options = {} if name == "StableDiffusionXL" else {"max_tokens": 140 if name == "QwenImage" else 24}
        denoiser = family.build(family.write(tmp_path), **options)
    codec = denoiser.make_codec()
    codec.encode_condition({"prompt": ["a cat", "a dog"]})
    assert "note:" not in capsys.readouterr().err
    long = " ".join("abcdefghijklmnopqrstuvwxyz0123456789" * 3)
    codec.encode_condition({"prompt": ["a cat", long]})
    codec.encode_condition({"prompt": [long, long]})
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    length = {"QwenImage": 140, "Wan": 24}.get(name, 16)
    assert any(f"1 of 2 prompts of a batch have more than the {length} tokens" in line for line in notes), notes
    assert len(notes) == len({line.split("'")[1] for line in notes}), "one note of each encoder"


def test_lengths_that_no_pipeline_takes_are_refused(tmp_path: Path):
    folder = write_tiny_flux(tmp_path)
    for length in (0, 513):
        with pytest.raises(UserError, match=rf"Flux.*\b{length}\b"):
            Flux(str(folder), resolution=16, max_tokens=length)


# ---------------------------------------------------------------------- libraries


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import CLIPTokenizer

    asked = "CLIPTokenizer requires the SentencePiece library but it was not found. `pip install sentencepiece`."

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ImportError(asked)

    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", fails)
    with pytest.raises(UserError, match=r"tokenizer' needs the library sentencepiece.* 'pip install sentencepiece'"):
        use(folder)
    texts = {
        ImportError("Please `pip install -U bitsandbytes` to load this"): "bitsandbytes",
        ValueError("You need to have sentencepiece or tiktoken installed to convert a slow tokenizer"): "sentencepiece",
        ModuleNotFoundError("No module named 'ftfy'", name="ftfy"): "ftfy",
        ValueError("shapes differ"): None,
    }
    assert [missing_library(error) for error in texts] == list(texts.values())


def test_a_folder_has_no_revisions(tmp_path: Path):
    with pytest.raises(UserError, match=r"^revision = 'v2' is one of a hub repository, and '.+' is a folder"):
        PipelineFolder(str(tmp_path), revision="v2")
