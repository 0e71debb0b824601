"""Keys of the shipped configs with values that make no sense, or that are of another kind.

Every config is shrunk to one update of a few samples, its released teacher replaced by a tiny one of the same family,
and resolved, so that every argument that has a default is a key as well. A key that several configs share, by the
class that it belongs to, is tried in the cheapest of them.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bad_inputs.inputs import BadInput, Expected

ROOT = Path(__file__).parents[2]
CHEAPEST = ("mixture", "digits")
"""Endings of the names of configs that others are tried after."""

SMALL: dict[str, Any] = {
    "batch_size": 4,
    "count": 8,
    "seeds": 4,
    "reference_count": 8,
    "held_out_count": 4,
    "predict_count": 4,
    "exact_count": 8,
    "teacher": False,
    "teacher_once": False,
    "weights": None,
}
"""What makes a run small, by the name of an argument; ``teacher`` only where it is no class."""

HUGE = 10**30
NUMBERS: dict[type, list[Any]] = {
    bool: ["maybe", 2, []],
    int: [-1, 0, 1.5, HUGE, math.nan, "many", [], None],
    float: [math.nan, math.inf, -1.0, 0.0, 1e300, "much", [], None],
    str: ["", "no such thing", 7, {}, None],
}
"""Values in place of a number or a word, by the type of the value that stands there."""

INSTEAD_OF_NOTHING: list[Any] = [math.nan, -1, "no such thing", []]
INSTEAD_OF_A_LIST: list[Any] = [[], "no such thing", 3, {}, [None], [math.nan], [-1], [{}]]
INSTEAD_OF_A_CLASS: list[Any] = [
    "NoSuchClass",
    "nowhere.NoSuchClass",
    "torch.nn.Linear",
    3,
    [],
    {"init_args": {}},
    {"class_path": "EDM", "init_args": "none"},
    {"class_path": None},
    {"class_path": 5, "init_args": {}},
]
INSTEAD_OF_A_MAPPING: list[Any] = ["no such thing", 3, [], {"no_such_key": 1}]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "StableDiffusion": ("tiny_sd.write_tiny_pipeline", {"resolution": 16}),
    "StableDiffusionXL": ("tiny_sdxl.write_tiny_sdxl", {}),
    "StableDiffusion3": ("tiny_sd3.write_tiny_sd3", {"resolution": 16, "max_tokens": 16}),
    "Flux": ("tiny_flux.write_tiny_flux", {"resolution": 16, "max_tokens": 16}),
    "QwenImage": ("tiny_qwenimage.write_tiny_qwenimage", {"resolution": 16}),
    "Wan": ("tiny_wan.write_tiny_wan", {"height": 16, "width": 16, "frames": 5, "max_tokens": 16}),
}
"""Where the tests write a tiny pipeline of a family, and the arguments that fit it."""


def sources() -> list[Path]:
    """The shipped configs that run by themselves, the cheapest first."""
    found = sorted((ROOT / "configs").glob("*.yaml"))
    order = {ending: i for i, ending in enumerate(CHEAPEST)}
    return sorted(found, key=lambda path: order.get(path.stem.rsplit("_", 1)[1], len(order)))


def tiny_pipeline(family: str, stage: Path) -> str:
    """The folder of a family's tiny pipeline, written if it is not there yet."""
    folder = stage / family
    if not folder.exists():
        sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
        module, name = FAMILIES[family][0].split(".")
        write = getattr(__import__(f"denoisers.{module}", fromlist=[name]), name)
        write(folder)
    return str(folder)


def small(value: Any) -> Any:
    """A part of a config with few samples."""
    if isinstance(value, list):
        return [small(item) for item in value]
    if not isinstance(value, dict):
        return value
    keep = {key: small(item) for key, item in value.items()}
    reduced = {key: SMALL[key] for key in SMALL if key in keep and not isinstance(keep[key], dict | list | float)}
    return keep | reduced


def shrunk(path: Path, stage: Path) -> dict[str, Any]:
    """A shipped config for one update on this machine."""
    config = small(yaml.safe_load(path.read_text(encoding="utf-8")))
    config["threads"] = 1
    trainer = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "precision": "32-true", "num_sanity_val_steps": 0}
    config["trainer"] |= trainer | {"enable_model_summary": False}
    config["trainer"].pop("strategy", None)
    method, data = config["model"]["init_args"], config["data"]
    teacher = method.get("teacher") or method.get("student")
    if teacher["class_path"] in FAMILIES:
        options = FAMILIES[teacher["class_path"]][1]
        teacher["init_args"] = {"pretrained": tiny_pipeline(teacher["class_path"], stage), **options}
    if data["class_path"] == "Pairs":
        data["init_args"] |= {"path": pairs(path.stem, config, stage), "held_out_count": 4}
    if data["class_path"] == "ImageFolder":
        data["init_args"] |= {"root": photos(stage), "resolution": 16, "held_out_fraction": 0.4}
    return config


def pairs(name: str, config: Mapping[str, Any], stage: Path) -> str:
    """A folder of eight pairs for a config."""
    from fastgen.__main__ import main

    folder, file = stage / f"pairs-{name}", stage / f"{name}.yaml"
    if not folder.exists():
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        words = [f"--config={file}", "--count=8", "--batch-size=8", "--steps=2", f"--out={folder}"]
        prompts = (
            ["--prompts=asset:prompts_toy.txt"]
            if config["model"]["init_args"]["teacher"]["class_path"] in FAMILIES
            else []
        )
        assert main(["pairs", *words, *prompts]) == 0
    return str(folder)


def photos(stage: Path) -> str:
    """A folder of eight images with captions."""
    from PIL import Image

    folder = stage / "photos"
    folder.mkdir(exist_ok=True)
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"colour {i}", encoding="utf-8")
    return str(folder)


def resolved(path: Path, stage: Path) -> dict[str, Any]:
    """The shrunk config with every argument that has a default; kept in ``stage``."""
    from fastgen.__main__ import main

    file, out = stage / f"{path.stem}-resolved.yaml", io.StringIO()
    if not file.exists():
        given = stage / f"{path.stem}.yaml"
        given.write_text(yaml.safe_dump(shrunk(path, stage)), encoding="utf-8")
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main(["fit", f"--config={given}", "--print_config"])
        file.write_text(out.getvalue(), encoding="utf-8")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


Place = tuple[str | int, ...]


def declarer(class_path: str, argument: str) -> str:
    """Name of the class that first declares an argument which ``class_path`` may only pass on."""
    module, _, name = class_path.rpartition(".")
    bases = getattr(importlib.import_module(module), name).__mro__
    own = (base for base in reversed(bases) if "__init__" in vars(base))
    return next((base.__name__ for base in own if argument in inspect.signature(base.__init__).parameters), name)


def leaves(value: Any, owner: str = "", place: Place = ()) -> Iterator[tuple[str, Place, Any]]:
    """Every key of a config: the class and argument it belongs to, its place, and what stands there."""
    if isinstance(value, dict) and "class_path" in value:
        for key, item in (value.get("init_args") or {}).items():
            name, inner = f"{declarer(value['class_path'], key)}.{key}", (*place, "init_args", key)
            yield name, inner, item
            yield from leaves(item, name, inner)
    elif isinstance(value, dict):
        for key, item in value.items():
            name = f"{owner}.{key}".lstrip(".")
            yield name, (*place, key), item
            yield from leaves(item, name, (*place, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if isinstance(item, dict):
                yield f"{owner}[]", (*place, i), item
            yield from leaves(item, f"{owner}[]", (*place, i))


def replaced(config: Mapping[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy of a config with another value at a place."""
    changed = copy.deepcopy(dict(config))
    part: Any = changed
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return changed


def instead_of(value: Any) -> list[Any]:
    """What may stand by mistake where ``value`` stands."""
    if value is None:
        return INSTEAD_OF_NOTHING
    if isinstance(value, dict):
        if "class_path" not in value:
            return INSTEAD_OF_A_MAPPING
        unknown = {**value, "init_args": {**(value.get("init_args") or {}), "no_such_key": 1}}
        return [*INSTEAD_OF_A_CLASS, unknown, {**value, "no_such_key": 1}]
    if isinstance(value, list):
        return INSTEAD_OF_A_LIST
    return [other for other in NUMBERS[type(value)] if other != value]


def fit(config: Mapping[str, Any]) -> Callable[[Path], Sequence[str]]:
    """``fit`` with a config written at that moment."""

    def words(folder: Path) -> Sequence[str]:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        return ["fit", "--config=config.yaml"]

    return words


def short(value: Any) -> str:
    """A value as the list of inputs shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def may_be_null(config: Mapping[str, Any], place: Place) -> bool:
    """Whether the declared type at a place of a config says that there may be nothing."""
    from lightning.pytorch import Trainer

    from fastgen.configuration.declared import OPEN, Slot, arguments_of

    slots: Mapping[str, Slot] = {"trainer": Slot(fields=arguments_of(Trainer))}
    part, slot = config, OPEN
    for key in place:
        if isinstance(key, int):
            slot = slot.parts or OPEN
        elif key == "init_args":
            module, _, name = part["class_path"].rpartition(".")
            slots = arguments_of(getattr(importlib.import_module(module), name))
        else:
            slot = slots.get(key, OPEN)
            slots = slot.fields
        part = part[key]  # type: ignore[index]
    return slot.nullable and slot is not OPEN


def key_inputs(stage: Path) -> Iterator[BadInput]:
    """Every key of every shipped config with every value that may stand there by mistake."""
    seen: set[tuple[str, str]] = set()
    for path in sources():
        config = resolved(path, stage)
        for name, place, value in leaves(config):
            for i, other in enumerate(instead_of(value)):
                label = f"#{i} {type(other).__name__}" if isinstance(other, dict) else short(other)
                if (name, label) not in seen:
                    seen.add((name, label))
                    expected: Expected = "either" if other is None and may_be_null(config, place) else "refuse"
                    yield BadInput("keys", f"{name} = {label}", fit(replaced(config, place, other)), expected)


def good_inputs(stage: Path) -> Iterator[BadInput]:
    """The shrunk configs as they are: the control, without which a refusal proves nothing."""
    for path in sources():
        yield BadInput("control", path.stem, fit(resolved(path, stage)), "ok")
