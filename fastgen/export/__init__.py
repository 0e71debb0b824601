"""Students for people who only know diffusers: pipelines and LoRA files."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """What this package offered while it was one file."""
    for part in () if name.startswith("_") else ("pipeline", "sampling", "schedulers", "card"):
        module = import_module(f"fastgen.export.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
