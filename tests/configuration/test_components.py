"""Components show as defaults, are values, and travel through configs and checkpoints."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from command_line import fastgen, few_of
from docstring_parser import parse
from lightning.pytorch import Callback, LightningDataModule
from pytest import CaptureFixture
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import fastgen as package
from fastgen import callbacks, denoisers, extras, methods  # noqa: F401  whose components there are
from fastgen.configuration.components import Component
from fastgen.configuration.declared import arguments_of, subclasses
from fastgen.configuration.parsing import without_nulls
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.extra import Extra
from fastgen.extras.reward import RewardModel
from fastgen.methods import Distiller, SiD
from fastgen.methods.recipes import generator_from
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.objectives.base import Objective
from fastgen.times import KarrasLevel

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


def components() -> Iterator[type]:
    """Those of fastgen that are no base of others alone."""
    for kind in subclasses(Component):
        if kind.__module__.startswith("fastgen.") and not getattr(kind, "__abstractmethods__", None):
            yield kind


COMPONENTS = [kind for kind in components() if kind not in (Component, Objective)]


@pytest.mark.parametrize("kind", COMPONENTS, ids=lambda kind: kind.__name__)
def test_a_component_is_a_value(kind: type):
    assert dataclasses.is_dataclass(kind) and "__dataclass_params__" in vars(kind), "decorate it with @dataclass"
    assert kind.__dataclass_params__.frozen and kind.__dataclass_params__.repr
    if kind.__name__.startswith("_"):
        return
    assert kind.__dataclass_params__.eq
    if any(field.default is dataclasses.MISSING for field in dataclasses.fields(kind)):
        return
    one, other = kind(), kind()
    assert one == other and hash(one) == hash(other) and repr(one).startswith(f"{kind.__name__}(")
    assert vars(one).keys() == {field.name for field in dataclasses.fields(kind)}, "what follows is a property"


def test_no_override_is_excused():
    """A subclass that cannot stand where its base can is a fault; the type checker must say so."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "override" not in settings.get("disable_error_code", [])
    assert not [file for file in (ROOT / "fastgen").rglob("*.py") if "ignore[override" in file.read_text()]


def printed(capsys: CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What ``--print_config`` shows of the model's arguments."""
    capsys.readouterr()
    assert fastgen("fit", *words, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]


def config(path: Path, **arguments: Any) -> str:
    """The mixture's config with other arguments of the model."""
    path.write_text(yaml.safe_dump({"model": {"class_path": "SiD", "init_args": arguments}}))
    return f"--config={path}"


SHIPPED = f"--config={CONFIGS / 'sid_mixture.yaml'}"
KARRAS = {"low": 0.0, "high": 0.8, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


@pytest.mark.parametrize(
    ("law", "wanted"),
    [
        ("KarrasLevel", KARRAS | {"high": 1.0}),
        ("UniformTime", {"low": 0.02, "high": 0.98}),
        ({"class_path": "KarrasLevel", "init_args": {"low": 0.1}}, KARRAS | {"low": 0.1, "high": 1.0}),
        ({"class_path": "fastgen.times.UniformTime"}, {"low": 0.02, "high": 0.98}),
        ({"init_args": {"rho": 5.0}}, KARRAS | {"rho": 5.0}),
    ],
    ids=str,
)
def test_who_names_a_class_begins_with_its_own_defaults(
    law: Any, wanted: dict[str, Any], tmp_path: Path, capsys: CaptureFixture[str]
):
    found = printed(capsys, SHIPPED, config(tmp_path / "law.yaml", renoise_time=law))
    assert found["renoise_time"]["init_args"] == wanted


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("renoise_time.rho=5", KARRAS | {"rho": 5.0}),
        ("renoise_time.init_args.high=0.7", KARRAS | {"high": 0.7}),
        ("renoise_time=UniformTime", {"low": 0.02, "high": 0.98}),
        ("renoise_time.class_path=UniformTime", {"low": 0.02, "high": 0.98}),
    ],
)
def test_the_command_line_changes_a_default_in_place_or_names_another(
    word: str, wanted: dict[str, Any], capsys: CaptureFixture[str]
):
    assert printed(capsys, SHIPPED, f"--model.init_args.{word}")["renoise_time"]["init_args"] == wanted


def test_several_configs_change_one_component(tmp_path: Path, capsys: CaptureFixture[str]):
    first = config(tmp_path / "1.yaml", renoise_time={"class_path": "KarrasLevel", "init_args": {"low": 0.1}})
    second = config(tmp_path / "2.yaml", renoise_time={"class_path": "KarrasLevel", "init_args": {"rho": 5.0}})
    third = config(tmp_path / "3.yaml", renoise_time={"class_path": "UniformTime", "init_args": {"low": 0.2}})
    found = printed(capsys, SHIPPED, first, second)["renoise_time"]["init_args"]
    assert found == KARRAS | {"low": 0.1, "high": 1.0, "rho": 5.0}
    assert printed(capsys, SHIPPED, first, second, third)["renoise_time"]["init_args"] == {"low": 0.2, "high": 0.98}


def test_what_is_printed_is_read_again(tmp_path: Path, capsys: CaptureFixture[str]):
    found = printed(capsys, SHIPPED)
    assert found["sampler"]["init_args"]["level"] == "max", "the config names the class: not the default's 2.5"
    assert printed(capsys, SHIPPED, config(tmp_path / "printed.yaml", **found)) == found


def recipe(**arguments: Any) -> dict[str, Any]:
    teacher = {"class_path": "fastgen.denoisers.MLP", "init_args": {"process": {"class_path": "fastgen.processes.EDM"}}}
    return {"class_path": "fastgen.methods.SiD", "init_args": {"teacher": teacher, **arguments}}


def test_a_recipe_of_a_checkpoint_builds_its_components():
    law = {"class_path": "fastgen.times.KarrasLevel", "init_args": {"high": 0.3}}
    assert generator_from(recipe(renoise_time=law)).renoise_time == KarrasLevel(high=0.3)
    assert generator_from(recipe()).renoise_time == KarrasLevel(0.0, 0.8)


def test_an_old_recipe_holds_null_for_a_default():
    method = generator_from(recipe(renoise_time=None, student=None, critic=None, solver=None, extras=None))
    assert method.renoise_time == KarrasLevel(0.0, 0.8)
    inner = {"class_path": "fastgen.times.ToData", "init_args": {"law": None}}
    kept = without_nulls({"critic_lr_scheduler": None, "renoise_time": inner, "alpha": None}, arguments_of(SiD))
    assert kept == {"critic_lr_scheduler": None, "renoise_time": {"class_path": inner["class_path"], "init_args": {}}}


def test_an_old_config_with_null_gets_one_sentence(tmp_path: Path, capsys: CaptureFixture[str]):
    assert fastgen("fit", SHIPPED, config(tmp_path / "old.yaml", renoise_time=None)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "model.init_args.renoise_time must not be null; leave it out for its default (KarrasLevel(low=0.0" in said


NAMED_IN_CONFIGS = (
    Callback,
    Component,
    Denoiser,
    Distiller,
    Extra,
    LightningDataModule,
    LRScheduler,
    MetricSuite,
    Optimizer,
    RewardModel,
    SampleMetric,
)


def documented(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each argument."""
    found = {}
    for base in reversed(kind.__mro__):
        found |= {
            part.arg_name: " ".join((part.description or "").split()) for part in parse(base.__doc__ or "").params
        }
    return found


def stands_for_something(text: str) -> bool:
    """Whether a docstring says what null is, other than none."""
    return bool(re.search(r"\bdefault\b|None(``)? (is|means|takes) |if none (is|are) given", text, re.IGNORECASE))


def nulls_that_stand_for_something() -> Iterator[str]:
    """Arguments that are null by default and whose docstring says what they are then, other than none."""
    for module in pkgutil.walk_packages(package.__path__, "fastgen."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for kind in dict.fromkeys(kind for base in NAMED_IN_CONFIGS for kind in subclasses(base)):
        if not kind.__module__.startswith("fastgen.") or kind.__name__.startswith("_"):
            continue
        said = documented(kind)
        for name, argument in inspect.signature(kind).parameters.items():
            if argument.default is None and stands_for_something(said.get(name, "")):
                yield f"{kind.__name__}.{name}"


def test_null_stands_for_nothing():
    found = list(nulls_that_stand_for_something())
    assert not found, "give the default as a value, or a word such as 'trained'"


SHIPPED_CONFIGS = sorted(CONFIGS.glob("*.yaml"))


def printed_nulls(value: Any, place: str = "model") -> Iterator[tuple[str, type, str]]:
    """Where a printed configuration holds null: the place, the class and the argument."""
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from printed_nulls(part, f"{place}[{number}]")
    elif isinstance(value, dict):
        kind = locate(value["class_path"]) if isinstance(value.get("class_path"), str) else None
        for key, part in (value.get("init_args") or {}).items() if kind else value.items():
            if part is None and kind:
                yield f"{place}.{key}", kind, key
            yield from printed_nulls(part, f"{place}.{key}")


@pytest.mark.parametrize("path", few_of(SHIPPED_CONFIGS))
def test_every_config_prints_its_defaults(path: Path, capsys: CaptureFixture[str]):
    """``--print_config`` of each is read again, and a null in it is a null that its docstring explains as none."""
    capsys.readouterr()
    assert fastgen("fit", f"--config={path}", "--print_config") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    for part in ("model", "data"):
        for place, kind, name in printed_nulls(shown[part], part):
            if kind.__module__.startswith("fastgen."):
                assert arguments_of(kind)[name].nullable, place
                assert not stands_for_something(documented(kind).get(name, "")), place
