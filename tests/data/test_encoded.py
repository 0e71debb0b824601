"""Latents and embeddings in memory are what the encoders would say in every update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data.test_emoji import emoji
from denoisers.tiny_sd import write_tiny_pipeline

from fastgen.data import Digits, Prompts
from fastgen.data.encoded import Encoded
from fastgen.denoisers import StableDiffusion
from fastgen.errors import UserError


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_pipeline(tmp_path_factory.mktemp("sd")))


def encoded(pipeline: str, **options) -> Encoded:
    inner = options.pop("data", None) or emoji(resolution=16, held_out_count=6)
    return Encoded(inner, lambda: StableDiffusion(pipeline), **{"count": 70, "batch_size": 4, **options})


def test_what_is_held_is_what_the_encoders_say(pipeline: str) -> None:
    data = encoded(pipeline)
    raw, codec = data.data.sources[0].batch([69, 3]), StableDiffusion(pipeline).make_codec()
    batch = data.sources[0].batch([69, 3])
    assert batch["encoded"] and set(batch) == {"x0", "condition", "encoded"}
    torch.testing.assert_close(batch["x0"], codec.encode(raw["x0"]))
    expected = codec.encode_condition(raw["condition"])
    assert set(batch["condition"]) == set(expected) == {"prompt_embeds", "null_prompt_embeds"}
    for name, value in expected.items():
        torch.testing.assert_close(batch["condition"][name], value)


def test_equal_pictures_and_captions_are_held_once(pipeline: str) -> None:
    data = encoded(pipeline, count=300)
    latents, places, conditions, told = data.sources[0].encoded
    distinct = len({picture.numpy().tobytes() for picture in data.data.sources[0].batch(range(300))["x0"]})
    assert len(latents) == distinct < 300 == len(places) == len(told)
    assert len(conditions["prompt_embeds"]) == len(set(data.data.sources[0].captions(range(300))))
    assert conditions["null_prompt_embeds"].stride(0) == 0


def test_module(pipeline: str) -> None:
    data = encoded(pipeline)
    batch = next(iter(data.train_dataloader()))
    assert batch["x0"].shape == (4, 4, 8, 8) and len(next(iter(data.val_dataloader()))["x0"]) == 4
    assert data.sources[1].size == 6
    assert data.evaluation_conditions([1]) == data.data.evaluation_conditions([1])
    assert torch.equal(data.reference()["samples"], data.data.reference()["samples"])


def test_prompts_alone(pipeline: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    batch = encoded(pipeline, data=Prompts(str(tmp_path / "p.txt"))).sources[0].batch([1, 0, 1])
    assert "x0" not in batch and batch["condition"]["prompt_embeds"].shape == (3, 16, 32)
    with pytest.raises(UserError, match="gives none"):
        encoded(pipeline, data=Digits()).sources[0].batch([0])
