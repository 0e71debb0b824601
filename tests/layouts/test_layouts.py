"""Folders of samples, read back the way each judge's script reads them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from command_line import fastgen
from PIL import Image

from fastgen.errors import UserError
from fastgen.layouts.folders import LAYOUTS
from fastgen.layouts.items import dpg_items, geneval_items
from fastgen.layouts.manifest import claim, manifest_of, read_manifest
from fastgen.layouts.writer import fill

METADATA = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "color_attr", "include": [{"class": "cow", "color": "red"}], "prompt": "a photo of a red cow ü"},
    {"tag": "counting", "include": [], "exclude": [{"class": "cow", "count": 3}], "prompt": "a photo of two cows"},
]
SIDE = 6


class Painter:
    """Stands in for a checkpoint: an image whose grey value is its seed."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls: list[tuple[list[int], list[str]]] = []
        self.fail_at = fail_at

    def __call__(self, seeds: list[int], prompts: list[str]) -> torch.Tensor:
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append((seeds, prompts))
        grey = torch.tensor(seeds, dtype=torch.float32) / 127.5 - 1
        return grey[:, None, None, None].expand(-1, 3, SIDE, SIDE)

    @property
    def seeds(self) -> list[int]:
        return [seed for seeds, _ in self.calls for seed in seeds]


def grey(path: Path, x: int = 0, y: int = 0) -> int:
    return Image.open(path).convert("RGB").getpixel((x, y))[0]


def write_prompts(folder: Path, lines: Sequence[str] = ("a cat", "a dog, running")) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_metadata(folder: Path) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in METADATA))
    return path


def make(
    name: str, source: Path, out: Path, per_prompt: int, painter: Painter, batch_size: int = 3, first: int = 10
) -> int:
    layout = LAYOUTS[name]
    return fill(out, layout, layout.items(str(source)), per_prompt, first, batch_size, painter)


def test_geneval(tmp_path):
    out = tmp_path / "out"
    assert make("geneval", write_metadata(tmp_path), out, 4, Painter()) == 12
    # As evaluation/evaluate_images.py goes through it.
    found = {}
    for folder in os.listdir(out):
        assert folder.isdigit() and (out / folder).is_dir()
        metadata = json.loads((out / folder / "metadata.jsonl").read_text())
        images = [name for name in os.listdir(out / folder / "samples") if re.match(r"\d+\.png", name)]
        found[folder] = metadata, sorted(images)
    names = ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert found == {f"{i:05d}": (record, names) for i, record in enumerate(METADATA)}
    assert grey(out / "00002" / "samples" / "0003.png") == 10 + 2 * 4 + 3


def test_geneval_metadata_is_copied_letter_by_letter(tmp_path):
    source = tmp_path / "m.jsonl"
    line = '{"prompt":"a  photo", "tag": "x", "nested": {"b": 1.50, "a": "\\u00fc"}}'
    source.write_text(line + "\n")
    make("geneval", source, tmp_path / "out", 1, Painter())
    assert (tmp_path / "out" / "00000" / "metadata.jsonl").read_text() == line + "\n"


def test_dpg_grids_are_cut_apart_again(tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name, text in (("10", "ten\n"), ("partiprompts0", "a long\ntext"), ("2", "two")):
        (prompts / f"{name}.txt").write_text(text)
    assert [(item.name, item.prompt) for item in dpg_items(str(prompts))] == [
        ("2", "two"),
        ("10", "ten"),
        ("partiprompts0", "a long text"),
    ]
    out = tmp_path / "out"
    make("dpg", prompts, out, 4, Painter())
    # As dpg_bench/compute_dpg_bench.py goes through it, with --resolution 6 --pic-num 4.
    assert sorted(name.split(".")[0] for name in os.listdir(out)) == ["10", "2", "partiprompts0"]
    picture = Image.open(out / "10.png")
    assert picture.size == (2 * SIDE, 2 * SIDE)
    corners = [(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]
    crops = [picture.crop((x, y, x + SIDE, y + SIDE)).getcolors() for x, y in corners]
    assert crops == [[(SIDE * SIDE, (14 + k,) * 3)] for k in range(4)]
    single = tmp_path / "single"
    make("dpg", prompts, single, 1, Painter())
    assert Image.open(single / "2.png").size == (SIDE, SIDE)


def test_dpg_reads_the_table_of_questions(tmp_path):
    table = tmp_path / "dpg_bench.csv"
    header = "item_id,text,keywords,proposition_id,dependency,category_broad,tuple,question_natural_language\n"
    rows = (
        'a0,"A red, round\nball",,1,0,entity,entity,Is it?\na0,"A red, round\nball",,2,1,e,e,Is?\nb1,Two,,1,0,e,e,Is?\n'
    )
    table.write_text(header + rows)
    assert [(item.name, item.prompt) for item in dpg_items(str(table))] == [("a0", "A red, round ball"), ("b1", "Two")]


def test_vbench(tmp_path):
    lines = ["A 3D model of a house.", "two: cats & 'dogs'", "A 3D model of a house."]
    make("vbench", write_prompts(tmp_path, lines), tmp_path / "out", 5, Painter())
    names = os.listdir(tmp_path / "out")
    # As vbench/__init__.py looks for them, in its standard mode.
    suffix = Path(names[0]).suffix
    assert sorted(names) == sorted(f"{prompt}-{k}{suffix}" for prompt in lines[:2] for k in range(5))
    stems = {re.sub(r"-\d+$", "", Path(name).stem) for name in names}  # get_prompt_from_filename
    assert stems == set(lines)


def test_hpsv3_and_vqascore_pair_pictures_with_prompts(tmp_path):
    source = write_prompts(tmp_path)
    hps, vqa = tmp_path / "hps", tmp_path / "vqa"
    make("hpsv3", source, hps, 2, Painter())
    images = [str(image) for image in hps.rglob("*.png")]
    prompts = [Path(image[:-4] + ".txt").read_text() for image in images]  # as evaluate/benchmark.py looks for them
    assert len(images) == 4
    assert prompts == ["a cat" if grey(Path(image)) < 12 else "a dog, running" for image in images]
    make("vqascore", source, vqa, 2, Painter())
    dataset = json.loads((vqa / "dataset.json").read_text())
    assert dataset[1] == {"images": ["images/00001-0000.png", "images/00001-0001.png"], "texts": ["a dog, running"]}
    assert all(grey(vqa / name) >= 10 for entry in dataset for name in entry["images"])


def test_plain_folders_are_those_of_hf_datasets(tmp_path):
    make("plain", write_prompts(tmp_path), tmp_path / "out", 1, Painter())
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert rows[1] == {"file_name": "00001-0000.png", "text": "a dog, running"}
    assert grey(tmp_path / "out" / "00001-0000.png") == 11


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_samples_depend_on_seed_and_prompt_only(tmp_path, name, batch_size):
    source = {"geneval": write_metadata, "dpg": write_table}.get(name, write_prompts)(tmp_path)
    painter = Painter()
    make(name, source, tmp_path / "out", 4, painter, batch_size)
    items = LAYOUTS[name].items(str(source))
    assert painter.seeds == list(range(10, 10 + 4 * len(items)))
    prompts = [prompt for _, texts in painter.calls for prompt in texts]
    assert prompts == [item.prompt for item in items for _ in range(4)]
    assert max(len(seeds) for seeds, _ in painter.calls) <= batch_size


def write_table(folder: Path) -> Path:
    path = folder / "dpg_bench.csv"
    path.write_text("item_id,text\nx,one\ny,two\n")
    return path


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_what_is_there_is_not_made_again(tmp_path, name):
    source = {"geneval": write_metadata, "dpg": write_table}.get(name, write_prompts)(tmp_path)
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        make(name, source, out, 4, Painter(fail_at=2), batch_size=2)
    leftover = out / ".0003.png-abcdefgh.unfinished.png"
    leftover.write_bytes(b"cut short")
    first = {path: path.read_bytes() for path in out.rglob("*.png")}
    rest = Painter()
    made = make(name, source, out, 4, rest, batch_size=2)
    assert not leftover.exists()
    assert 0 < made == len(rest.seeds) < 4 * len(LAYOUTS[name].items(str(source)))
    make(name, source, whole, 4, Painter())
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert all(path.read_bytes() == content for path, content in first.items() if path != leftover)
    assert make(name, source, out, 4, Painter()) == 0


def test_a_folder_is_filled_with_one_set_of_settings(tmp_path):
    out = tmp_path / "out"
    wanted = {"layout": "plain", "nfe": 1, "checkpoint": "ab"}
    claim(out, wanted)
    claim(out, wanted)
    assert read_manifest(out) == wanted and manifest_of(out).parent == tmp_path
    with pytest.raises(UserError, match=r"begun with another nfe \(1, now 4\)"):
        claim(out, wanted | {"nfe": 4})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.png").write_bytes(b"")
    with pytest.raises(UserError, match="was not made by"):
        claim(tmp_path / "full", wanted)
    manifest_of(out).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        claim(out, wanted)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("geneval", "a photo of a cat\n", "Line 1"),
        ("geneval", '{"prompt": "x"}\n', "Line 1"),
        ("geneval", "\n", "holds no prompt"),
        ("dpg", "a cat\n", "neither a folder"),
        ("vbench", "cats/dogs\n", "leave '/' out"),
        ("vbench", "x" * 231 + "\n", "too long"),
        ("plain", "\n", "holds no prompt"),
    ],
)
def test_bad_prompts_are_one_sentence(tmp_path, name, content, reason):
    source = tmp_path / "prompts.txt"
    source.write_text(content)
    with pytest.raises(UserError, match=reason):
        make(name, source, tmp_path / "out", 1, Painter())


def test_dpg_mistakes(tmp_path):
    with pytest.raises(UserError, match="1 to 4 pictures"):
        make("dpg", write_table(tmp_path), tmp_path / "out", 5, Painter())
    (tmp_path / "dpg_bench.csv").write_text("item_id,text\na.b,one\n")
    with pytest.raises(UserError, match="cannot name a picture"):
        dpg_items(str(tmp_path / "dpg_bench.csv"))
    (tmp_path / "dpg_bench.csv").write_text("id,prompt\na,one\n")
    with pytest.raises(UserError, match="lacks the columns"):
        dpg_items(str(tmp_path / "dpg_bench.csv"))
    wide = tmp_path / "wide"
    with pytest.raises(UserError, match="cuts squares"):
        LAYOUTS["dpg"].write(wide, geneval_items(str(write_metadata(tmp_path)))[0], {0: Image.new("RGB", (4, 2))})


def test_the_command_with_a_text_checkpoint(tmp_path, capfd, text_checkpoint):
    source = write_metadata(tmp_path)
    out = tmp_path / "geneval"
    words = ["sample", "--ckpt", text_checkpoint, "--layout", "geneval", "--prompts", source, "--out", out]
    assert fastgen(*words, "--per-prompt", 2, "--batch-size", 4, "--device", "cpu") == 0
    told = capfd.readouterr().out
    assert "6 samples (6 new), 1 network calls each" in told and "evaluate_images.py" in told
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert files == [f"{i:05d}/samples/{k:04d}.png" for i in range(3) for k in range(2)]
    assert Image.open(out / "00000" / "samples" / "0001.png").size == (16, 16)
    before = (out / "00001" / "samples" / "0001.png").read_bytes()
    (out / "00001" / "samples" / "0001.png").unlink()
    assert fastgen(*words, "--per-prompt", 2, "--batch-size", 1, "--device", "cpu") == 0
    assert "6 samples (1 new)" in capfd.readouterr().out
    again = (out / "00001" / "samples" / "0001.png").read_bytes()
    assert again == before  # whatever it was sampled with
    assert fastgen(*words, "--per-prompt", 3, "--device", "cpu") == 2
    assert "begun with another per_prompt (2, now 3)" in capfd.readouterr().err
    # The judge's verdict comes back into the run's table with what the folder knows.
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"tag": "counting", "correct": True, "prompt": "x"}) + "\n")
    run = text_checkpoint.parent.parent
    assert fastgen("scores", run, f"geneval={results}", "--samples", out) == 0
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (row["role"], row["nfe"], row["student_updates"], row["values"]["geneval"]) == ("average", 1, 1, 1.0)


def test_mistakes_of_the_command(tmp_path, capfd, text_checkpoint):
    words = ["sample", "--ckpt", text_checkpoint, "--layout", "plain", "--out", tmp_path / "out"]
    for more, reason in (
        ([], "needs --prompts FILE"),
        (["--prompts", tmp_path / "nowhere.txt"], "does not exist"),
        (["--prompts", write_prompts(tmp_path), "--per-prompt", 0], "at least 1"),
        (["--prompts", write_prompts(tmp_path), "--out", tmp_path / "x.png"], "writes a folder"),
    ):
        assert fastgen(*words, *more) == 2
        assert reason in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
