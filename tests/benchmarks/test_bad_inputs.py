"""The fuzzer of bad inputs tells a sentence from a traceback, a library's words, a crash and what is accepted."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import Trainer

from benchmarks.bad_inputs.configs import ROOT, instead_of, leaves, may_be_null, replaced
from benchmarks.bad_inputs.inputs import BadInput, is_sentence
from benchmarks.bad_inputs.runner import forget, keep, known, outcomes
from benchmarks.bad_inputs.table import faults
from fastgen.cli.parser import ConfigParser as Parser
from fastgen.configuration.constructors import telling
from fastgen.configuration.diagnosis import diagnosing
from fastgen.data import DistillationData
from fastgen.errors import UserError
from fastgen.messages import as_sentence
from fastgen.methods import Distiller


def command(words: Sequence[str]) -> int:
    """Stands for the command line."""
    (word,) = words
    if word == "sentence":
        sys.stderr.write("fastgen: steps must be an integer from 1, got 0.\n")
        return 2
    if word == "jargon":
        sys.stderr.write("fastgen: Expected a <class 'int'>.\n")
        return 2
    if word == "traceback":
        raise TypeError("'NoneType' object is not callable")
    if word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdout.write("Health of the run: the loss rises.\n" if word == "warned" else "Health of the run: healthy.\n")
    return 0


def test_what_a_command_comes_to(tmp_path: Path):
    words = ("sentence", "jargon", "traceback", "killed", "warned", "accepted")
    inputs = [BadInput("words", word, lambda folder, word=word: [word]) for word in words]  # type: ignore[misc]
    found = {outcome.key: outcome for outcome in outcomes(inputs, command)}
    kinds = ["refused", "jargon", "traceback", "stopped", "warned", "accepted"]
    assert [found[given.key].kind for given in inputs] == kinds
    wrong = {f"words: {word}" for word in ("jargon", "traceback", "killed", "accepted")}
    assert {outcome.key for outcome in faults(found.values())} == wrong
    file = tmp_path / "outcomes.jsonl"
    for outcome in found.values():
        keep(file, outcome)
    assert known(file) == found
    forget(file, wrong)
    assert set(known(file)) == {"words: sentence", "words: warned"}


@pytest.fixture(scope="module")
def parser() -> Parser:
    """What reads a config of ``fit``."""
    found = Parser(exit_on_error=False)
    found.add_argument("--config", action=ActionConfigFile)
    found.add_argument("--threads", type=int | None, default=None)
    found.add_lightning_class_args(Trainer, "trainer")
    found.add_lightning_class_args(Distiller, "model", subclass_mode=True)
    found.add_lightning_class_args(DistillationData, "data", subclass_mode=True)
    return found


def refusal(config: dict[str, Any], file: Path, parser: Parser) -> str | None:
    """What parser and constructors say about a config; ``None`` if it is fine as far as they see."""
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    words = [f"--config={file}"]
    try:
        with diagnosing(words, parser):
            parsed = parser.parse_args(words)
        built = Namespace(model=parsed.model, data=parsed.data)
        with telling(parser, built):
            parser.instantiate(built)
    except UserError as error:
        return as_sentence(str(error))
    return None


@pytest.fixture(scope="module")
def resolved(parser: Parser) -> dict[str, Any]:
    """A shipped config with every argument that has a default."""
    parsed = parser.parse_args([f"--config={ROOT / 'configs' / 'sid_mixture.yaml'}"])
    return yaml.safe_load(parser.dump(Namespace({**vars(parsed), "config": None}), skip_none=False))


def test_a_sample_of_wrong_values_is_refused_in_sentences(resolved: dict[str, Any], parser: Parser, tmp_path: Path):
    """Of the values that the fuzzer puts into model and data; what only a run refuses is not seen here."""
    places = [leaf for leaf in leaves(resolved) if leaf[1][0] in ("model", "data")]
    wrong = [(name, place, other) for name, place, value in places for other in instead_of(value)]
    sample = random.Random(0).sample(wrong, 24)
    refused = 0
    for name, place, other in sample:
        said = refusal(replaced(resolved, place, other), tmp_path / "bad.yaml", parser)
        assert said is None or is_sentence(said), (name, other, said)
        assert said is not None or other is not None or may_be_null(resolved, place), f"{name} = null"
        refused += said is not None
    assert refused > len(sample) // 2
