"""Distil diffusion and flow teachers into students that need one to eight network calls.

From Python: ``fastgen.train``, ``load``, ``sample``, ``evaluate`` and ``to_diffusers``. They are imported when they are
first asked for, so that ``import fastgen`` itself imports no torch.
"""

from typing import TYPE_CHECKING, Any

from fastgen.former_modules import find_former_modules

if TYPE_CHECKING:
    from fastgen.api import Run, evaluate, load, sample, to_diffusers, train

find_former_modules()

__version__ = "0.1.0"

__all__ = ["Run", "__version__", "evaluate", "load", "sample", "to_diffusers", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fastgen import api

        return getattr(api, name)
    raise AttributeError(f"module 'fastgen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
