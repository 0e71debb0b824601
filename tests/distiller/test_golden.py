"""The first losses of every method and config are those of the files under ``tests/golden``."""

from __future__ import annotations

import json

import pytest
from golden_losses import NAMES, TOLERANCE, difference, file_of, measure

pytestmark = pytest.mark.filterwarnings("ignore")


def cases(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", NAMES[kind])


def check(kind: str, name: str) -> None:
    wanted = file_of(kind, name)
    assert wanted.exists(), f"write it: python tests/golden_losses.py --write {name}"
    gap, place = difference(measure(kind, name), json.loads(wanted.read_text()))
    assert gap <= TOLERANCE, f"{place} differs by {gap:.1e}; if that is meant: --write --again {name}"


@cases("methods")
def test_a_method_on_the_toys(name: str):
    check("methods", name)


@cases("configs")
def test_a_shipped_config(name: str):
    check("configs", name)


@pytest.mark.slow
@cases("families")
def test_a_config_on_a_tiny_pipeline(name: str):
    check("families", name)


def test_a_difference_is_seen():
    assert difference({"a": [1.0]}, {"a": [1.0]}) == (0.0, "")
    assert difference({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [2.0 + 4e-9]})[0] == pytest.approx(2e-9)
    for other in ({"a": [1.0, 1.0]}, {"b": [1.0]}, {"a": [float("nan")]}):
        assert not difference({"a": [1.0]}, other)[0] <= TOLERANCE
