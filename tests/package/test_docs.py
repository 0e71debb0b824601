"""The documents name what exists, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastgen.extras
import fastgen.methods
from fastgen.configuration.declared import subclasses
from fastgen.extras import Extra
from fastgen.methods import Distiller

ROOT = Path(__file__).parents[2]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def test_every_method_and_extra_is_in_the_paper_index():
    methods = [cls for cls in subclasses(Distiller) if cls.__module__.startswith("fastgen.methods.")]
    exported = {*fastgen.methods.__all__, *(cls.__name__ for cls in methods)}
    assert len(exported) > 20
    parts = [cls for cls in vars(fastgen.extras).values() if isinstance(cls, type) and issubclass(cls, Extra)]
    extras = {cls.__name__ for cls in parts} - {"Extra"}
    assert {"EL", "GAN", "Reward", "DistributionMatching"} <= extras
    assert not {name for name in exported | extras if f"`{name}`" not in METHODS}


def test_every_config_of_a_method_is_in_the_paper_index():
    configs = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    named = set(re.findall(r"`([a-z0-9]+_[a-z0-9_]+)`", METHODS))
    assert configs == named


def test_the_tests_that_the_paper_index_names_exist():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+\.py)`", METHODS))
    assert named and named <= tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
