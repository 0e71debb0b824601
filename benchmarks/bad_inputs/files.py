"""Files that are damaged in every way, given to every command that reads their kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.bad_inputs import damage
from benchmarks.bad_inputs.inputs import BadInput, Expected
from fastgen.checkpoints.seals import seal

Words = Callable[[Path], Sequence[str]]
"""Words of a command that is run in a folder with a copy of the stage."""


def case(
    stage: Path, group: str, name: str, file: str, spoil: damage.Damage, words: Sequence[str], expected: Expected
) -> BadInput:
    """A command on a copy of the good files of which one is spoiled."""

    def prepare(folder: Path) -> Sequence[str]:
        shutil.copytree(stage, folder, dirs_exist_ok=True, symlinks=True)
        spoil(folder / file)
        return words

    return BadInput(group, name, prepare, expected)


def edited(change: Callable[[Any], Any]) -> damage.Damage:
    """A file of JSON with a change; what the change returns, if anything, is written instead."""

    def spoil(path: Path) -> None:
        value = json.loads(path.read_text())
        found = change(value)
        path.write_text(json.dumps(value if found is None else found))

    return spoil


def retensored(change: Callable[[dict[str, torch.Tensor]], Any], keep_metadata: bool = True) -> damage.Damage:
    """A safetensors file with a change of its tensors."""

    def spoil(path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() if keep_metadata else None
        tensors = load_file(path)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)

    return spoil


def repickled(change: Callable[[dict[str, Any]], Any], sealed: bool = False) -> damage.Damage:
    """A file of ``torch.save`` with a change; ``sealed`` gives it digests that belong to the change."""

    def spoil(path: Path) -> None:
        value = torch.load(path, weights_only=True)
        found = change(value)
        if sealed:
            seal(value)
        torch.save(value if found is None else found, path)

    return spoil


TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "no tensors": lambda t: t.clear(),
    "first missing": lambda t: t.pop(sorted(t)[0]),
    "last missing": lambda t: t.pop(sorted(t)[-1]),
    "one more": lambda t: t.update(more=torch.zeros(3)),
    "renamed": lambda t: t.update(other=t.pop(sorted(t)[0])),
    "NaN": lambda t: t.update({sorted(t)[0]: torch.full_like(t[sorted(t)[0]], float("nan"))}),
    "infinite": lambda t: t.update({sorted(t)[-1]: torch.full_like(t[sorted(t)[-1]], float("inf"))}),
    "other shape": lambda t: t.update({sorted(t)[0]: t[sorted(t)[0]][None]}),
    "empty tensors": lambda t: t.update({sorted(t)[-1]: torch.zeros(0)}),
    "whole numbers": lambda t: t.update({name: value.nan_to_num().int() for name, value in t.items()}),
    "complex": lambda t: t.update({name: value.to(torch.complex64) for name, value in t.items()}),
}
"""Wrong tensors in a right file."""


def references(stage: Path) -> Iterator[BadInput]:
    """References of features, read by an evaluation."""
    for name in ("reference.safetensors", "reference.npz"):
        words = ["validate", "--config", f"with_{name.partition('.')[2]}.yaml", "--ckpt_path", "last.ckpt"]
        for kind, spoil, expected in damage.binary_file():
            yield case(stage, f"files: {name}", kind, name, spoil, words, expected)
    words = ["validate", "--config", "with_safetensors.yaml", "--ckpt_path", "last.ckpt"]
    for kind, change in TENSORS.items():
        yield case(
            stage, "files: reference.safetensors", kind, "reference.safetensors", retensored(change), words, "refuse"
        )
    yield case(
        stage,
        "files: reference.safetensors",
        "no metadata",
        "reference.safetensors",
        retensored(lambda t: None, False),
        words,
        "refuse",
    )
    words = ["validate", "--config", "with_npz.yaml", "--ckpt_path", "last.ckpt"]
    size = 64
    eye, zero = np.eye(size), np.zeros(size)
    arrays: dict[str, dict[str, Any]] = {
        "other names": {"mean": zero, "cov": eye},
        "no sigma": {"mu": zero},
        "texts": {"mu": np.array(["a"] * size), "sigma": eye},
        "objects": {"mu": np.array([{}], dtype=object), "sigma": eye},
        "NaN mean": {"mu": zero * np.nan, "sigma": eye},
        "NaN covariance": {"mu": zero, "sigma": eye * np.nan},
        "infinite": {"mu": zero + np.inf, "sigma": eye},
        "not square": {"mu": zero, "sigma": eye[:3]},
        "other size": {"mu": np.zeros(3), "sigma": np.eye(3)},
        "no features": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
        "a scalar": {"mu": np.float64(0), "sigma": np.float64(1)},
        "complex": {"mu": zero + 1j, "sigma": eye},
        "not symmetric": {"mu": zero, "sigma": np.triu(np.ones((size, size)))},
        "negative variance": {"mu": zero, "sigma": -eye},
        "truth values": {"mu": zero > 0, "sigma": eye > 0},
    }
    for kind, found in arrays.items():

        def spoil(path: Path, found: dict[str, Any] = found) -> None:
            np.savez(path, **found)

        yield case(stage, "files: reference.npz", kind, "reference.npz", spoil, words, "refuse")


def weights(stage: Path) -> Iterator[BadInput]:
    """Weights of a network that a config names."""
    words = ["fit", "--config", "with_weights.yaml"]
    for kind, spoil, expected in damage.binary_file(expected="either"):
        yield case(stage, "files: weights", kind, "weights.safetensors", spoil, words, expected)
    for kind, change in TENSORS.items():
        yield case(stage, "files: weights", kind, "weights.safetensors", retensored(change), words, "refuse")


def without_first(checkpoint: dict[str, Any]) -> None:
    """Takes a tensor out."""
    del checkpoint["state_dict"][next(iter(checkpoint["state_dict"]))]


def not_a_number(checkpoint: dict[str, Any]) -> None:
    """Fills every tensor with NaN."""
    for value in checkpoint["state_dict"].values():
        if value.is_floating_point():
            value.fill_(float("nan"))


CHECKPOINT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda c: [c],
    "a tensor": lambda c: torch.zeros(3),
    "nothing": lambda c: c.clear(),
    "part is a text": lambda c: c.update(fastgen="x"),
    "part is empty": lambda c: c.update(fastgen={}),
    "state is a list": lambda c: c.update(state_dict=list(c["state_dict"])),
    "state is empty": lambda c: c.update(state_dict={}),
    "NaN weights": not_a_number,
    "complex weights": lambda c: c.update(state_dict={k: v.to(torch.complex64) for k, v in c["state_dict"].items()}),
    "whole weights": lambda c: c.update(state_dict={k: v.int() for k, v in c["state_dict"].items()}),
    "text weights": lambda c: c["state_dict"].update(dict.fromkeys(c["state_dict"], "x")),
    "one weight missing": without_first,
    "one weight more": lambda c: c["state_dict"].update(more=torch.zeros(3)),
    "one weight of other shape": lambda c: c["state_dict"].update({next(iter(c["state_dict"])): torch.zeros(1, 2, 3)}),
    "format 99": lambda c: c["fastgen"].update(format=99),
    "format text": lambda c: c["fastgen"].update(format="x"),
    "recipe null": lambda c: c["fastgen"].update(recipe=None),
    "recipe a number": lambda c: c["fastgen"].update(recipe=3),
    "recipe of another method": lambda c: c["fastgen"]["recipe"].update(class_path="fastgen.methods.DMD2"),
    "recipe of another class": lambda c: c["fastgen"].update(recipe={"class_path": "os.system", "init_args": {}}),
    "recipe with an option more": lambda c: c["fastgen"]["recipe"]["init_args"].update(more=3),
    "recipe with a huge network": lambda c: c["fastgen"]["recipe"]["init_args"]["teacher"]["init_args"].update(
        width=10**7
    ),
    "recipe with a width of text": lambda c: c["fastgen"]["recipe"]["init_args"]["teacher"]["init_args"].update(
        width="x"
    ),
    "averages a text": lambda c: c["fastgen"].update(averages="x"),
    "averages of numbers": lambda c: c["fastgen"].update(averages=[3]),
    "averages unknown": lambda c: c["fastgen"].update(averages=["no_such"]),
    "skipped updates text": lambda c: c["fastgen"].update(bad_steps_total="x"),
    "updates a list": lambda c: c["fastgen"].update(updates=[1]),
    "configured a text": lambda c: c["fastgen"].update(configured="x"),
    "settings a text": lambda c: c["fastgen"].update(settings="x"),
    "student updates negative": lambda c: c.update(global_step=-1),
    "student updates text": lambda c: c.update(global_step="x"),
    "iteration NaN": lambda c: c["fastgen"].update(iteration=float("nan")),
    "iteration negative": lambda c: c["fastgen"].update(iteration=-5),
    "iteration text": lambda c: c["fastgen"].update(iteration="x"),
}
"""Checkpoints that ``torch.save`` wrote, of something else than a run."""

UNSEALED = ("a list", "a tensor", "nothing", "part is a text", "part is empty")
"""Those that have no digests."""

OF_RECIPE = ("recipe null", "recipe with an option more", "recipe with a huge network", "recipe with a width of text")
"""Recipes of the right method."""


def checkpoints(stage: Path) -> Iterator[BadInput]:
    """Checkpoints, given to every command that reads one."""
    commands: dict[str, list[str]] = {
        "sample": ["sample", "--ckpt", "last.ckpt", "--seeds", "0-3"],
        "fit": ["fit", "--config", "fit.yaml", "--ckpt_path", "last.ckpt", "--trainer.max_steps", "3"],
        "validate": ["validate", "--config", "fit.yaml", "--ckpt_path", "last.ckpt"],
        "pairs": ["pairs", "--ckpt", "last.ckpt", "--role", "average", "--count", "4", "--out", "new"],
        "export": ["export", "--ckpt", "last.ckpt", "--out", "new"],
    }
    for command, words in commands.items():
        for kind, spoil, expected in damage.binary_file(flips=2):
            wanted: Expected = "refuse" if command != "export" or expected != "either" else expected
            wanted = "either" if expected == "either" and command != "export" else wanted
            yield case(stage, f"files: checkpoint ({command})", kind, "last.ckpt", spoil, words, wanted)
    for command in ("sample", "fit"):
        for kind, change in CHECKPOINT.items():
            spoil = repickled(change)
            yield case(stage, f"files: checkpoint ({command})", kind, "last.ckpt", spoil, commands[command], "refuse")
    for command in commands:
        group = f"files: sealed checkpoint ({command})"
        for kind, change in CHECKPOINT.items():
            if kind not in UNSEALED:
                # What builds no network from the recipe says what differs; what needs no more tensors leaves them out.
                unread = kind in OF_RECIPE and command in ("fit", "validate")
                wanted = "either" if unread or kind == "one weight more" else "refuse"
                yield case(stage, group, kind, "last.ckpt", repickled(change, True), commands[command], wanted)


def pictures(stage: Path) -> Iterator[BadInput]:
    """Pictures of a folder, read by ``stats`` and by a run."""
    deep = Image.fromarray(np.full((8, 8), 3.5, dtype=np.float32))
    whole = Image.fromarray(np.full((8, 8), 70000, dtype=np.int32))
    for command, words in (
        (
            "stats",
            [
                "stats",
                "--data",
                "pictures",
                "--extractor",
                "DigitsClassifier",
                "--color",
                "grey",
                "--out",
                "new.safetensors",
            ],
        ),
        ("fit", ["fit", "--config", "with_pictures.yaml"]),
    ):
        for suffix in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
            name = f"pictures/0.{suffix}"

            def spoil(path: Path, change: damage.Damage) -> None:
                path.parent.joinpath("0.png").rename(path.parent / "kept.png")
                Image.open(path.parent / "kept.png").save(path)
                change(path)

            kinds: Iterable[tuple[str, damage.Damage, Expected]] = damage.binary_file(flips=2, expected="either")
            for kind, change, expected in kinds:
                if kind == "missing" or (
                    suffix != "png" and kind in ("a folder", "a pipe", "a link to itself", "a link to nowhere")
                ):
                    continue
                late = kind in ("cut at 99.9%", "cut at 90.0%") or kind == "a folder"
                both: Expected = "either" if late else expected
                yield case(
                    stage,
                    f"files: pictures ({command})",
                    f"{suffix}: {kind}",
                    name,
                    lambda p, c=change: spoil(p, c),
                    words,
                    both,
                )  # type: ignore[misc]
        others: dict[str, tuple[damage.Damage, Expected]] = {
            "floating point": (lambda path: deep.save(path.with_name("a.tiff")), "refuse"),
            "32-bit integers": (lambda path: whole.save(path.with_name("a.tiff")), "refuse"),
            "too wide": (lambda path: Image.new("L", (9, 8)).save(path), "refuse"),
            "one pixel": (lambda path: Image.new("L", (1, 1)).save(path), "refuse"),
            "PostScript": (
                damage.replaced(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"),
                "refuse",
            ),
            "a name that is no text": (lambda path: path.rename(path.parent / "caf\udce9.png"), "ok"),
            "a name with a newline": (lambda path: path.rename(path.parent / "a\nb.png"), "ok"),
            "16 bits": (lambda path: Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(path), "ok"),
            "transparent": (lambda path: Image.new("RGBA", (8, 8)).save(path), "ok"),
            "CMYK": (lambda path: Image.new("CMYK", (8, 8)).save(path.with_suffix(".jpg")), "ok"),
            "a folder that loops": (lambda path: (path.parent / "loop").symlink_to(path.parent.resolve()), "refuse"),
            "no pictures": (lambda path: [p.unlink() for p in path.parent.iterdir()] and None, "refuse"),  # type: ignore[func-returns-value]
        }
        for kind, (change, expected) in others.items():
            yield case(stage, f"files: pictures ({command})", kind, "pictures/0.png", change, words, expected)


# The network of these runs takes labels, so good prompts are refused for its sake: they are expected to be "either".
PROMPTS: dict[str, list[tuple[str, str, Expected]]] = {
    "txt": [("blank lines", "\n \n\t\n", "refuse"), ("one line of a megabyte", "x" * 2**20, "either")],
    "jsonl": [
        *(
            (f"a value of {value}", f'{{"text": {value}}}\n', "refuse")
            for value in (
                "null",
                "3",
                "1.5",
                "true",
                "[]",
                "{}",
                '["a"]',
                '""',
                '"  "',
                '"\\u0000"',
                '"\\ud800"',
                "NaN",
                "9" * 5000,
                "[" * 200 + "]" * 200,
                "[" * damage.DEEP,
            )
        ),
        ("a list", '["a"]\n', "refuse"),
        ("a text", '"a"\n', "refuse"),
        ("no column", '{"caption": "a"}\n', "refuse"),
        ("a key twice", '{"text": "a", "text": "b"}\n', "refuse"),
        ("two on a line", '{"text": "a"}{"text": "b"}\n', "refuse"),
        ("cut", '{"text": "a"}\n{"text": "b', "refuse"),
        ("single quotes", "{'text': 'a'}\n", "refuse"),
        ("a second line without", '{"text": "a"}\n{"prompt": "b"}\n', "refuse"),
        ("separators", '{"text": "a\u2028b\x85c"}\n', "either"),
    ],
    "csv": [
        ("no column", "caption\na\n", "refuse"),
        ("a column twice", "text,text\na,b\n", "refuse"),
        ("too many cells", "text\na, b\n", "refuse"),
        ("an open quotation", 'text\n"a\nb\n', "refuse"),
        ("words after a quotation", 'text\n"a" b\n', "refuse"),
        ("an empty cell", "text,id\n,1\n", "refuse"),
        ("a header only", "text\n", "refuse"),
        ("a large cell", "text\n" + "x" * 200_000 + "\n", "either"),
        ("semicolons", "id;text\n1;a\n", "refuse"),
        ("several lines in a cell", 'text\n"a\nb"\n', "either"),
        ("separators", "text\na\u2028b\x85c\x0cd\n", "either"),
    ],
    "tsv": [("no column", "caption\tid\na\t1\n", "refuse"), ("too many cells", "text\na\tb\n", "refuse")],
}
"""Bad tables of prompts."""


def prompts(stage: Path) -> Iterator[BadInput]:
    """Files of prompts, in every format."""
    for suffix, contents in PROMPTS.items():
        words = ["fit", "--config", "with_prompts.yaml", "--data.path", f"prompts.{suffix}"]
        group = f"files: prompts.{suffix}"
        for kind, spoil, expected in damage.text_file("either" if suffix == "txt" else "refuse"):
            yield case(stage, group, kind, f"prompts.{suffix}", spoil, words, expected)
        for kind, text, expected in contents:
            yield case(
                stage,
                group,
                kind,
                f"prompts.{suffix}",
                damage.replaced(text.encode("utf-8", "surrogatepass")),
                words,
                expected,
            )
    for suffix in ("json", "yaml", "xml", "parquet"):
        words = ["fit", "--config", "with_prompts.yaml", "--data.path", f"prompts.{suffix}"]
        yield case(
            stage,
            "files: prompts of other kinds",
            suffix,
            "prompts.txt",
            lambda path, s=suffix: path.rename(path.with_suffix(f".{s}")) and None,
            words,
            "refuse",
        )  # type: ignore[misc]


def pairs(stage: Path) -> Iterator[BadInput]:
    """Folders of pairs, read by a run and gone on with by ``pairs``."""
    fit = ["fit", "--config", "with_pairs.yaml"]
    again = [
        "pairs",
        "--ckpt",
        "last.ckpt",
        "--role",
        "average",
        "--count",
        "16",
        "--shard-size",
        "8",
        "--out",
        "pairs",
    ]
    for command, words in (("fit", fit), ("pairs", again)):
        group = f"files: manifest of pairs ({command})"
        for kind, spoil, expected in damage.json_file():
            yield case(stage, group, kind, "pairs/manifest.json", spoil, words, expected)
        for key in ("format", "count", "shard_size", "sample_shape", "condition", "num_classes"):
            for value in (None, "x", -1, 10**30, [], [1], {}):
                change = lambda m, key=key, value=value: m.update({key: value})  # noqa: E731
                either: Expected = "either" if (key, value) in (("num_classes", None), ("condition", [])) else "refuse"
                yield case(
                    stage, group, f"{key} {json.dumps(value)[:9]}", "pairs/manifest.json", edited(change), words, either
                )
    group = "files: shard of pairs (fit)"
    for kind, spoil, expected in damage.binary_file(expected="either"):
        yield case(stage, group, kind, "pairs/pairs-00000.safetensors", spoil, fit, expected)
    for kind, change in TENSORS.items():
        expected = "either" if kind == "one more" else "refuse"
        yield case(stage, group, kind, "pairs/pairs-00000.safetensors", retensored(change), fit, expected)


RESULTS: dict[str, tuple[str, list[str]]] = {
    "geneval": ("results.jsonl", ['{"tag": "a", "correct": 1}', '{"tag": 3, "correct": true}', '{"correct": true}']),
    "dpg": ("results.txt", ["a.png, 1.0, x", "DPG-Bench score: 250", "DPG-Bench score: nan", "DPG-Bench score: -1"]),
    "vbench": (
        "vbench.json",
        ['{"color": []}', '{"color": ["x"]}', '{"color": [-1]}', '{"color": [1e400]}', '{"a": 3}'],
    ),
    "hpsv3": ("hpsv3.json", ['[{"prompt": "x"}]', "[null]", "[NaN]", '{"data": 3}', '{"data": {"a": []}}']),
    "vqascore": ("vqascore.json", ["5", "[2]", "[-1]", "[true]", '["x"]', "[1" + "0" * 400 + "]", "[[[]]]"]),
}
"""The result file of each judge in the stage, and bad contents of it."""


def results(stage: Path) -> Iterator[BadInput]:
    """Results of judges, read by ``scores``."""
    for judge, (file, contents) in RESULTS.items():
        words = ["scores", "run", f"{judge}={file}", "--nfe", "1"]
        group = f"files: results of {judge}"
        kinds = damage.text_file() if judge == "dpg" else damage.json_file()
        for kind, spoil, expected in kinds:
            good = judge == "hpsv3" and kind == "[1, 2]"
            yield case(stage, group, kind, file, spoil, words, "ok" if good else expected)
        for content in contents:
            yield case(stage, group, content[:40], file, damage.replaced(content.encode()), words, "refuse")
    tensors = {
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "NaN": torch.full((3,), float("nan")),
        "above one": torch.full((3,), 7.0),
        "none": torch.zeros(0),
        "a list": [1, 2],
    }
    for kind, value in tensors.items():

        def save(path: Path, value: Any = value) -> None:
            torch.save(value, path.with_suffix(".pt"))

        words = ["scores", "run", "vqascore=vqascore.pt", "--nfe", "1"]
        yield case(stage, "files: results of vqascore", f"{kind} (.pt)", "vqascore.json", save, words, "refuse")


RUN_FILES = ("config.yaml", "metrics.jsonl", "throughput.json", "health.jsonl")


def runs(stage: Path) -> Iterator[BadInput]:
    """Files of a run folder: the page and the table are made of what is left, so damage is no reason to refuse."""
    commands = {"compare": ["compare", "run"], "report": ["report", "run", "--no-samples", "--out", "new"]}
    for command, words in commands.items():
        for file in RUN_FILES:
            for kind, spoil, _ in damage.json_file():
                yield case(stage, f"files: {file} ({command})", kind, f"run/{file}", spoil, words, "ok")
    for key in ("nfe", "steps", "count", "student_updates", "training_seconds", "role", "values", "fingerprint"):
        for value in ("null", '"x"', "-4", "0", "1e999", "NaN", "9" * 400, "[]", '{"frechet": NaN}'):

            def spoil(path: Path, key: str = key, value: str = value) -> None:
                row = json.loads(path.read_text().splitlines()[0])
                row[key] = "VALUE"
                path.write_text(path.read_text() + json.dumps(row).replace('"VALUE"', value) + "\n")

            words = commands["report"]
            yield case(
                stage, "files: a measurement (report)", f"{key} {value[:16]}", "run/metrics.jsonl", spoil, words, "ok"
            )


def layouts(stage: Path) -> Iterator[BadInput]:
    """Prompts of judges, which are read before the checkpoint is; a good one is refused for the checkpoint's sake."""
    for layout, file in (("geneval", "geneval.jsonl"), ("dpg", "dpg.csv")):
        words = ["sample", "--ckpt", "last.ckpt", "--layout", layout, "--prompts", file, "--out", "new"]
        for kind, spoil, _ in damage.json_file() if layout == "geneval" else damage.text_file():
            yield case(stage, f"files: prompts of {layout}", kind, file, spoil, words, "refuse")


def inputs(stage: Path) -> list[BadInput]:
    """All of them, on the good files in ``stage`` (see ``make_stage``)."""
    makers = (references, weights, checkpoints, pictures, prompts, pairs, results, runs, layouts)
    return [given for make in makers for given in make(stage)]
