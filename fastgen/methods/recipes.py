"""Building a method from the configuration that travels in its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError, ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastgen.configuration.declared import Slot, arguments_of
from fastgen.configuration.diagnosis import in_hint
from fastgen.configuration.former_recipes import in_present_names
from fastgen.configuration.masking import without_masks
from fastgen.configuration.parsing import ClassesOnly, without_nulls
from fastgen.configuration.renamed import option_now
from fastgen.configuration.trust import Trust
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.extras.reward import RewardModel
from fastgen.messages import one_sentence
from fastgen.objectives.base import Objective

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller

FOR_TRAINING = (Optimizer, LRScheduler, Extra, RewardModel, PerceptualDistance, Objective)
"""What samples never need."""


class RecipeParser(ClassesOnly, ArgumentParser):
    """Builds what was looked at."""


def generator_from(recipe: Any, trusted: Iterable[str] = ()) -> Distiller:
    """The method of a recipe, for sampling: without what only training needs.

    Args:
        recipe: ``{"class_path": ..., "init_args": {...}}``, plain data of unknown origin.
        trusted: Modules whose classes may be built beside those of fastgen.

    Raises:
        UserError: If the recipe names what is not trusted, or cannot be built.
    """
    from fastgen.methods import Distiller

    trust, slot = Trust(trusted), Slot((Distiller,))
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("init_args") or {}, Mapping):
        raise UserError("it is no class with arguments.")
    recipe = in_present_names(recipe)
    try:
        kind = trust.find(recipe.get("class_path"), slot, "model.class_path")
        needed = without_masks({**recipe, "init_args": for_sampling(kind, recipe.get("init_args") or {})})
        trust.check(needed, slot, "model")
    except RecursionError as error:
        raise UserError("it is nested too deeply.") from error
    try:
        parser = RecipeParser(exit_on_error=False)
        parser.add_subclass_arguments(Distiller, "model")
        needed["init_args"] = without_nulls(needed["init_args"], arguments_of(kind))
        return parser.instantiate(parser.parse_object({"model": needed})).model
    except (ArgumentError, ValueError, TypeError, ImportError, AttributeError, RecursionError) as error:
        fault = next(in_hint(needed, Distiller, "model"), None)  # all that is named there is trusted by now
        raise UserError(fault or one_sentence(str(error))) from error


def for_sampling(kind: type[Distiller], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method without those that build what only training needs.

    So are those that it has no longer: what sampling needs of them has been translated.
    """
    slots = arguments_of(kind)
    known = {name: value for name, value in arguments.items() if name in slots or not option_now(kind, name)}
    return {name: value for name, value in known.items() if not is_left_out(kind, name, slots.get(name, Slot()))}


def is_left_out(kind: type[Distiller], name: str, slot: Slot) -> bool:
    """Whether an argument builds an optimizer, a schedule, an extra, or a network that does not generate."""
    training = FOR_TRAINING if name in kind.sampling_networks else (*FOR_TRAINING, Denoiser)
    return not slot.required and any(issubclass(built, training) for built in slot.built)
