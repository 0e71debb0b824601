"""What is known when a run begins, to tell which options will have no effect in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastgen.errors import UserError

if TYPE_CHECKING:
    from fastgen.conditions import Guidance
    from fastgen.denoisers.base import Denoiser

UNCONDITIONAL = "has no effect, because the data module gives no condition; leave it out, or give labels or prompts."


@dataclass(frozen=True)
class RunFacts:
    """A run that is about to begin.

    Attributes:
        max_steps: Student updates at which it ends; -1 if only time or epochs end it.
        condition: The condition of one sample as the data module gives it, empty without conditions; ``None`` if it is
            not known.
        measured: First parts of the names that are logged now and then: ``eval`` (samples), ``val`` (losses).
    """

    max_steps: int = -1
    condition: Mapping[str, Any] | None = None
    measured: frozenset[str] = frozenset()

    @property
    def unconditional(self) -> bool:
        """Whether it is known that no sample has a condition."""
        return self.condition is not None and not self.condition

    def ends_before(self, update: int) -> bool:
        """Whether student update ``update`` + 1 never comes."""
        return 0 <= self.max_steps <= update

    def refuse_guidance(self, option: str, scale: float, network: Denoiser) -> None:
        """Check that ``network`` can be guided, which would otherwise fail at its first guided call.

        Raises:
            UserError: If the data module gives no condition, or the network has no null condition.
        """
        if scale in (0.0, 1.0) or network.guided_by_input or self.condition is None:
            return
        if not self.condition:
            raise UserError(
                f"{option} is {scale:g}, but the data module gives no condition to guide by; set it to 1, or give "
                "labels or prompts."
            )
        condition = {} if "prompt" in self.condition else self.condition
        network.null_condition(condition or network.example_condition(1))


def idle_guidance(run: RunFacts, guidance: Guidance, teacher: Denoiser, critic: Denoiser) -> Iterator[str]:
    """Which scales of a score distillation do nothing.

    Raises:
        UserError: If teacher or critic cannot be guided.
    """
    option = "guidance."
    run.refuse_guidance(f"{option}teacher", guidance.teacher, teacher)
    run.refuse_guidance(f"{option}critic", guidance.critic, critic)
    run.refuse_guidance(f"{option}critic_training", guidance.critic_training, critic)
    used = {name: getattr(guidance, name) == 0.0 for name in ("teacher", "critic", "critic_training")}
    used["condition_dropout"] = guidance.condition_dropout > 0
    yield from idle_options(run, {f"{option}{name}": is_used for name, is_used in used.items()})


def idle_options(run: RunFacts, options: Mapping[str, bool]) -> Iterator[str]:
    """Sentences about options, by name, that are in use but speak of a condition that there is not."""
    if run.unconditional:
        for name, used in options.items():
            if used:
                yield f"{name} {UNCONDITIONAL}"
