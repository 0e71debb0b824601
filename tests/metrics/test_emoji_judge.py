"""The judge out of a folder, on towers with random weights, and the training of its classifiers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import train_emoji_attributes
from fastgen.data.emoji import Emoji
from fastgen.data.emoji.captions import words_of
from fastgen.errors import UserError
from fastgen.metrics import CaptionRetrieval, EmojiJudge, EmojiMetrics, FrechetDistance, UnsaidDiversity, VendiScore
from fastgen.metrics.judge import emoji_judge
from fastgen.metrics.judge.attributes import FILE, AttributeClassifiers, read_classifiers, write_classifiers
from fastgen.miniatures.tokens import write_tokenizer
from fastgen.miniatures.towers import PictureTower, TowerShape, make_text_tower

DRAWINGS = Path(__file__).parents[1] / "data" / "emoji"
WIDTH = 16


def data(**options) -> Emoji:
    return Emoji(str(DRAWINGS), str(DRAWINGS / "drawings.txt"), resolution=16, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge with random weights, without classifiers."""
    path = tmp_path_factory.mktemp("judge") / "judge"
    write_tokenizer(path / "tokenizer", words_of(data().names))
    vocabulary = len(json.loads((path / "tokenizer" / "vocab.json").read_text()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make_text_tower(vocabulary, 20, WIDTH, 1).half().save_pretrained(path / "text_encoder")
        PictureTower(TowerShape((8, 16), 24, WIDTH), 16).half().save_pretrained(path / "image_encoder")
    return path


def trained(folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(folder, tmp_path / "trained")
    words = [f"--judge={copy}", f"--font={DRAWINGS}", f"--drawings={DRAWINGS / 'drawings.txt'}", "--epochs=12"]
    assert train_emoji_attributes.main(words) == 0
    return copy


def test_it_sees_and_reads(folder: Path) -> None:
    judge = EmojiJudge(str(folder))
    assert judge.num_features == 24 and judge.classes == {} and judge.fingerprint().startswith("emoji_judge/16x16rgb/")
    pictures = data().evaluation_samples(range(6))
    features = judge(pictures)
    assert features.shape == (6, 24) and judge.seen(features).shape == (6, 0)
    vectors, texts = judge.embed(features), judge.texts(["a fox", "a small red apple on blue", "a fox"])
    assert vectors.shape == (6, WIDTH) and texts.shape == (3, WIDTH)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(6)) and torch.allclose(texts.norm(dim=1), torch.ones(3))
    assert torch.equal(texts[0], texts[2]) and not torch.allclose(texts[0], texts[1])
    assert torch.allclose(judge.texts(["a fox"]), texts[:1], atol=1e-6), "not of its neighbours"
    with pytest.raises(UserError, match="reads RGB pictures of 16x16"):
        judge(pictures[..., :8, :8])


def test_classifiers_are_trained_and_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = EmojiJudge(str(trained(folder, tmp_path)))
    said = capsys.readouterr().out
    shares = {name: float(share) for name, share in (part.split()[-2:] for part in said.splitlines()[0].split(", "))}
    assert shares["background"] > 0.9 and shares["name"] > 2 / 12 and (tmp_path / "trained" / FILE).exists()
    assert list(judge.classes) == ["name", "background", "size", "position"]
    held_out = data()
    pictures, shown = held_out.pictures_of(1)
    right = (judge.seen(judge(pictures)) == held_out.drawings.numbers(shown)).double().mean(0)
    assert right[1] > 0.85 and judge.fingerprint() != EmojiJudge(str(folder)).fingerprint()
    suite = EmojiMetrics(judge, metrics=[FrechetDistance(), VendiScore()])
    suite.load()
    suite.set_reference(data(reference_count=40).reference())
    rows = range(40)
    told = held_out.evaluation_conditions(rows) | held_out.evaluation_groups(rows)
    suite.observe(held_out.evaluation_samples(rows), told, rows)
    numbers = suite.compute()
    assert numbers["background_accuracy"] > 0.8 and set(numbers) <= set(suite.kinds()) and "unsaid_diversity" in numbers


def test_logistic_regression_finds_what_is_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 5 + 3 * torch.randn(600, 6, generator=generator)
    numbers = torch.stack([features[:, :3].argmax(1), (features[:, 4] > 5).long()], 1)
    classifiers = train_emoji_attributes.fit(features, numbers, {"a": "xyz", "b": "no"}, 40, 0)
    found = train_emoji_attributes.accuracies(classifiers, features, numbers)
    assert found["a"] > 0.95 and found["b"] > 0.95


def test_mistakes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji_judge, "ASSETS", tmp_path)
    with pytest.raises(UserError, match="'emoji-judge' is not part of this installation"):
        EmojiJudge()
    with pytest.raises(UserError, match="train_emoji_attributes"):
        EmojiMetrics(EmojiJudge(str(folder)), captions=[UnsaidDiversity()]).load()
    EmojiMetrics(EmojiJudge(str(folder)), captions=[CaptionRetrieval()]).load()
    with pytest.raises(UserError, match="lacks 'image_encoder'"):
        EmojiJudge(str(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        EmojiJudge(str(tmp_path / "none"))
    assert train_emoji_attributes.main([f"--judge={tmp_path / 'none'}"]) == 2

    classifiers = AttributeClassifiers({"size": ["large", "small"]}, 24)
    write_classifiers(tmp_path, classifiers, "one", {})
    again = read_classifiers(tmp_path, 24, "one")
    assert again.classes == {"size": ("large", "small")}
    assert torch.allclose(again.heads["size"].weight, classifiers.heads["size"].weight, atol=1e-3)
    with pytest.raises(UserError, match="features of another network"):
        read_classifiers(tmp_path, 24, "two")
    (tmp_path / FILE).write_bytes((folder / "image_encoder" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not say what it classifies"):
        read_classifiers(tmp_path, 24, "one")

    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(UserError, match="text_encoder' cannot be read"):
        EmojiJudge(str(broken)).load()
    (broken / "image_encoder" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="describes no picture tower"):
        EmojiJudge(str(broken))
