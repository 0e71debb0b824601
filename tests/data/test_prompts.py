"""Prompt files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from fastgen.data.prompts import Prompts, read_prompts, read_styles
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
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "Line 2 of .*not JSON"),
        ("a.jsonl", '["a"]\n', "not a JSON object"),
        ("a.jsonl", '{"caption": "a"}\n', "neither a 'text' nor a 'prompt' column"),
        ("a.csv", "prompt,id\na,1\n,2\n", "Line 3 of .* has no 'prompt'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        Prompts(str(tmp_path / name)).setup()


SEPARATORS = ["\u2028", "\u2029", "\x85", "\r", "\x0b", "\x0c", "\x1c", "\ufeff"]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
def test_only_newlines_end_a_prompt(tmp_path: Path, name: str, separator: str) -> None:
    prompt = f"a fox{separator}red"
    rows = {
        "a.txt": f"{prompt}\r\na cat\n",
        "a.jsonl": "".join(
            json.dumps({"text": text}, ensure_ascii=separator < " ") + "\n" for text in (prompt, "a cat")
        ),
        "a.csv": f'text\r\n"{prompt}"\r\na cat\r\n',
        "a.tsv": f'id\ttext\n1\t"{prompt}"\n2\ta cat\n',
    }
    (tmp_path / name).write_text("\ufeff" + rows[name], encoding="utf-8", newline="")
    assert read_prompts(str(tmp_path / name)) == [prompt, "a cat"]


def test_cells_in_quotes_may_hold_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,style\n"a fox,\n\n ""red""",anime\n\n,\na cat,photo\n')
    assert read_prompts(str(tmp_path / "a.csv")) == ['a fox,\n\n "red"', "a cat"]
    assert read_styles(str(tmp_path / "a.csv")) == ["anime", "photo"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": null}\n', "Line 3 of .* has null as 'text'"),
        ("a.jsonl", '{"prompt": ["a", "b"]}\n', "Line 1 of .* has a list as 'prompt'"),
        ("a.jsonl", '{"prompt": {"a": 1}}\n', "has an object as 'prompt'"),
        ("a.jsonl", '{"prompt": 5}\n', "has a number as 'prompt'"),
        ("a.jsonl", '{"prompt": true}\n', "has a truth value as 'prompt'"),
        ("a.jsonl", '{"prompt": "  "}\n', "has no 'prompt'"),
        ("a.jsonl", '{"prompt": "a\\u0000b"}\n', "has a NUL in 'prompt'"),
        ("a.jsonl", '{"prompt": "\\ud800"}\n', "Line 1 .* half of a character"),
        ("a.jsonl", '{"prompt": "a", "prompt": "b"}\n', "Line 1 .* has 'prompt' twice"),
        ("a.jsonl", '{"prompt": "a", "x": ' + "[" * 9000 + "}\n", "Line 1 .* nested more than"),
        ("a.jsonl", '{"prompt": "a"}{"prompt": "b"}\n', "Line 1 .* not JSON"),
        ("a.csv", "text,text\na,b\n", "two columns 'text'"),
        ("a.csv", "text\na fox, red\n", "Line 2 of .* has 2 cells, but the header names 1; put cells"),
        ("a.csv", 'text\n"a fox\na cat\n', "Line 2 of .* is broken .*quotation marks"),
        ("a.csv", 'text\na\n"b" c\n', "Line 3 of .* is broken"),
        ("a.csv", "text\na\rb\n", "Line 2 of .* is broken"),
        ("a.csv", "text\n" + "x" * 200_000 + "\n", "Line 2 of .* is broken .*larger than"),
        ("a.csv", "text\n", "holds no prompt"),
        ("a.json", '["a fox"]', "no kind of prompts file; make it .txt"),
        ("a.yaml", "- a fox", "no kind of prompts file"),
        ("a.txt", "a\0b", "holds a NUL in line 1"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(str(tmp_path / name))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


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
