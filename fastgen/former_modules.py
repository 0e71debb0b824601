"""Imports of modules by the paths that they had before they moved into rooms: found, with a warning of the new path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType


@cache
def former() -> dict[str, str]:
    """Where a module is now, by its former path."""
    lines = (Path(__file__).parent / "assets" / "former_modules.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines)


class FormerModule(Loader):
    """Gives a module for a path that it had.

    Args:
        path: Where it is now.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {self.path} now.", DeprecationWarning, stacklevel=2)
        module = import_module(self.path)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # it stays what it is


class FormerModules(MetaPathFinder):
    """The last to be asked for a module of fastgen."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.startswith("fastgen.") and (present := former().get(name)):
            return spec_from_loader(name, FormerModule(present))
        return None


def find_former_modules() -> None:
    """Let imports find them."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
