"""Extra: a loss term that any method can carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.distiller.run_facts import RunFacts

if TYPE_CHECKING:
    from fastgen.denoisers.base import Denoiser
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch
    from fastgen.distiller.score_term import ScoreTerm
    from fastgen.sampling.samplers import Sampler


class Extra(nn.Module):
    """A term with its own weight, start and modules.

    Args:
        weight: Factor of the student's term.
        start: Student update from which the term is active.

    Attributes:
        reads_others: Whether it reads networks or samples that other extras bring; it then comes after them.
        sampler: How the student should generate what is judged, if the method makes no samples of its own.
    """

    reads_others: bool = False
    sampler: Sampler | None = None

    def __init__(self, weight: float = 1.0, start: int = 0) -> None:
        checks.not_negative(self, weight=weight)
        checks.whole(self, 0, start=start)
        super().__init__()
        self.weight = weight
        self.start = start

    def build(self, method: Distiller) -> None:
        """Build own modules; the method's roles exist already."""

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        """Own modules by the role whose optimizer trains them; a new name is a role of the extra's own."""
        return {}

    def optimizers(self) -> dict[str, OptimizerCallable]:
        """What builds the optimizers of the extra's own roles."""
        return {}

    def turns(self, turns: tuple[str, ...], iteration: int) -> tuple[str, ...]:
        """The roles of an iteration, with the extra's own ones put in."""
        return turns

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        """What of it does nothing in a run."""
        name = type(self).__name__
        if self.weight == 0.0:
            yield f"the extra {name} has the weight 0: the student learns nothing from what it computes; leave it out."
        if run.ends_before(self.start):
            yield (
                f"the extra {name} starts at student update {self.start}, but the run ends at {run.max_steps}: it does "
                "nothing; lower its start."
            )

    def score_term(self) -> ScoreTerm | None:
        """This extra, if it compares a teacher with a critic."""
        return None

    def watching(
        self, term: ScoreTerm, part: MicroBatch, x_t: Tensor, role: str
    ) -> dict[nn.Module, Callable[[Denoiser], Denoiser]]:
        """What to see networks through, by network, while ``term`` asks them about ``x_t`` (B, ...).

        For terms that need more of a call that is made anyway: in the turn of ``role``, the student's, where scores are
        compared, or the critic's, where it denoises.
        """
        return {}

    def after_update(self, method: Distiller, role: str) -> None:
        """What follows an update of ``role`` that was made."""

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        """Terms to add to the losses of ``role``, weighted."""
        return {}
