"""Prompt files."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fastgen.data.prompts import Prompts, read_prompts
from fastgen.errors import UserError


def test_toy_prompts_ship() -> None:
    data = Prompts("asset:prompts_toy.txt", batch_size=8)
    batches = list(itertools.islice(iter(data.train_dataloader()), 4))
    seen = [prompt for batch in batches for prompt in batch["condition"]["prompt"]]
    assert len(set(seen)) == 32 and "x0" not in batches[0]
    prompts = read_prompts("asset:prompts_toy.txt")
    assert seen != prompts and sorted(seen) == sorted(prompts)
    assert data.evaluation_conditions([0, 31, 32])["prompt"] == [prompts[0], prompts[31], prompts[0]]
    (fixed,) = list(data.val_dataloader())
    assert fixed["condition"]["prompt"] == prompts[:8]
    assert data.reference() is None and data.num_classes is None and data.label_names is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\ufeffa fox, red\n\n  a cat  \n"),
        ("a.jsonl", '{"text": "a fox, red"}\n{"text": "a cat"}\n'),
        ("b.jsonl", '{"prompt": "a fox, red", "id": 3}\n{"prompt": "a cat", "id": 4}\n'),
        ("a.csv", 'id,prompt\n1,"a fox, red"\n2,a cat\n'),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(str(tmp_path / name)) == ["a fox, red", "a cat"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", " \n\n", "holds no prompt"),
        ("a.jsonl", "", "holds no prompt"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "Record 2 of .*not JSON"),
        ("a.jsonl", '["a"]\n', "not a JSON object"),
        ("a.jsonl", '{"caption": "a"}\n', "neither a 'text' nor a 'prompt' column"),
        ("a.csv", "prompt,id\na,1\n,2\n", "Record 2 of .* has no 'prompt'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        Prompts(str(tmp_path / name)).setup()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Prompts(str(tmp_path / "none.txt")).setup()
    with pytest.raises(UserError, match="not a file"):
        Prompts(str(tmp_path)).setup()


def test_held_out_prompts(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("one\ntwo\nthree\n")
    data = Prompts("asset:prompts_toy.txt", held_out=str(tmp_path / "test.txt"), batch_size=2)
    assert [b["condition"]["prompt"] for b in data.val_dataloader()] == [["one", "two"], ["three"]]
    assert data.evaluation_conditions(range(4))["prompt"] == ["one", "two", "three", "one"]


def test_styles_group_evaluation_samples(tmp_path: Path) -> None:
    file = tmp_path / "hps.jsonl"
    file.write_text('{"prompt": "a cat", "style": "anime"}\n{"prompt": "a dog", "style": "photo"}\n')
    data = Prompts(str(file))
    assert data.evaluation_conditions([0, 1, 2]) == {"prompt": ["a cat", "a dog", "a cat"]}
    assert data.evaluation_groups([0, 1, 2]) == {"style": ["anime", "photo", "anime"]}
    (tmp_path / "plain.txt").write_text("a cat\n")
    assert Prompts(str(tmp_path / "plain.txt")).evaluation_groups([0]) == {}
    assert Prompts(str(tmp_path / "plain.txt"), held_out=str(file)).evaluation_groups([1]) == {"style": ["photo"]}
