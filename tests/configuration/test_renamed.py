"""Words and options that older configs use are refused with one sentence that names what stands in their place."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from command_line import fastgen
from pytest import CaptureFixture

from fastgen import extras, methods  # noqa: F401  whose classes there are
from fastgen.configuration.components import Component
from fastgen.configuration.declared import Slot, arguments_of, subclasses
from fastgen.configuration.diagnosis import in_arguments
from fastgen.configuration.renamed import OPTIONS, VALUES
from fastgen.distiller.base import Distiller

CONFIG = Path(__file__).parents[2] / "configs" / "sid_mixture.yaml"
BY_NAME = {kind.__name__: kind for base in (Component, Distiller) for kind in subclasses(base)}
WORDS = [(owner, option, word) for (owner, option), told in VALUES.items() if isinstance(told, dict) for word in told]


@pytest.mark.parametrize(("owner", "option", "word"), WORDS)
def test_a_word_that_is_a_class_now_is_answered_with_yaml_that_fits(owner: str, option: str, word: str):
    kind = next(kind for kind in subclasses(BY_NAME[owner]) if not inspect.isabstract(kind))
    written = {"part": {"class_path": kind.__name__, "init_args": {option: word}}}
    said = next(in_arguments(written, {"part": Slot((kind,), hint=kind)}, ""))
    assert said.startswith(f"part.init_args.{option} is a class now; write {option}: ")
    advice = yaml.safe_load(said.partition("write ")[2].rpartition(" in place of ")[0])
    assert not list(in_arguments(advice, {option: arguments_of(kind)[option]}, "")), advice


def test_what_is_told_is_of_classes_that_have_no_such_option():
    for owner, option in OPTIONS:
        if owner in BY_NAME and not inspect.isabstract(BY_NAME[owner]):
            assert option not in arguments_of(BY_NAME[owner]), (owner, option)


def test_the_command_line_says_one_sentence(tmp_path: Path, capsys: CaptureFixture[str]):
    old = {"class_path": "DenoisingLoss", "init_args": {"sigma_data": 0.9, "reduction": "sum"}}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({"model": {"class_path": "SiD", "init_args": {"critic_objective": old}}}))
    assert fastgen("fit", f"--config={CONFIG}", f"--config={path}") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "critic_objective.init_args.sigma_data is the weight's now: write weight: {class_path: EDMWeight" in said
    assert fastgen("fit", f"--config={CONFIG}", "--model.init_args.weight=distance") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "model.init_args.weight is a class now; write weight: InverseDistance in place of 'distance'." in said
