"""The fuzzer of bad inputs tells a sentence from a traceback, a library's words, a crash and what is accepted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bad_inputs.inputs import BadInput
from benchmarks.bad_inputs.runner import forget, keep, known, outcomes
from benchmarks.bad_inputs.table import faults


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
