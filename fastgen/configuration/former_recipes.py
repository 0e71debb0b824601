"""Recipes in checkpoints that were written before a class or an option had its present name.

Whoever samples from such a checkpoint need not know that names have changed. A config is text that its author can
mend: there :mod:`fastgen.configuration.renamed` says the new name instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

Arguments = dict[str, Any]

SAMPLERS = ("StudentSampler", "RenoiseSampler", "JumpSampler", "TrajectorySampler", "PhasedSampler", "AnytimeSampler")


def last(path: Any) -> str:
    """The class's own name."""
    return str(path).rpartition(".")[2]


def in_present_names(recipe: Mapping[str, Any]) -> Arguments:
    """A method's ``{"class_path": ..., "init_args": {...}}`` as it would be written today.

    A recipe of today is left as it is. What only training needs is not translated, because samples do not build it.
    """
    arguments = dict(recipe.get("init_args") or {})
    if rule := METHODS.get(last(recipe.get("class_path"))):
        rule(arguments)
    if isinstance(arguments.get("target"), str):  # the name of an average, which only training reads
        del arguments["target"]
    return {**recipe, "init_args": {name: moved(value) for name, value in arguments.items()}}


def moved(value: Any) -> Any:
    """Plain data in which classes have their present names."""
    if isinstance(value, list):
        return [moved(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    inner = {key: moved(part) for key, part in value.items()}
    path = inner.get("class_path")
    if isinstance(path, str):
        module, _, name = path.rpartition(".")
        if name in SAMPLERS and isinstance(inner.get("init_args", {}), Mapping):
            return sampler(name, dict(inner.get("init_args") or {}))
        if module.startswith("fastgen.") and is_gone(module):
            inner["class_path"] = name  # which is found among the classes that may stand there
    return inner


def is_gone(module: str) -> bool:
    """Whether there is no such module (any more); nothing but packages of fastgen is imported to tell."""
    try:
        return find_spec(module) is None
    except (ImportError, ValueError):
        return True


def sampler(name: str, arguments: Arguments) -> Arguments:
    """A sampler: fresh noise or not was an option, and null a default."""
    if name == "StudentSampler":
        name = "RenoiseSampler" if arguments.pop("stochastic", True) else "JumpSampler"
    given = {key: value for key, value in arguments.items() if value is not None}
    if isinstance(given.get("times"), list):
        given.pop("steps", None)
    return {"class_path": f"fastgen.sampling.samplers.{name}", "init_args": given}


def pi_flow(arguments: Arguments) -> None:
    """How a policy is followed was said by the method."""
    own = {key: arguments.pop(key) for key in ("substeps", "last_segment") if key in arguments}
    if own:
        former = (arguments.get("sampler") or {}).get("init_args") or {}
        kept = {key: former[key] for key in ("times", "level", "steps") if former.get(key) is not None}
        if "times" in kept:
            kept.pop("steps", None)
        arguments["sampler"] = {"class_path": "fastgen.sampling.samplers.PolicySampler", "init_args": kept | own}


def optimal_steps(arguments: Arguments) -> None:
    """The number of calls was said by the method."""
    if "steps" in arguments:
        steps = {"steps": arguments.pop("steps")}
        arguments["sampler"] = {"class_path": "fastgen.sampling.samplers.GridSampler", "init_args": steps}


METHODS: dict[str, Callable[[Arguments], None]] = {"PiFlow": pi_flow, "OptimalSteps": optimal_steps}
"""What else has changed, by the name of the method."""
