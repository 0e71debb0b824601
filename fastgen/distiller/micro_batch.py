"""One micro-batch as a method sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import Comparison, ScoreInputs


@dataclass
class MicroBatch:
    """A piece of a batch, already in the denoiser's space, and what is remembered of it within an iteration.

    Attributes:
        x0: Real samples (B, ...), or ``None`` for data-free training.
        condition: Tensors for the denoiser.
        draws: The random numbers of these samples; others in a role's second turn of an iteration.
        noise: What the samples were made from (B, ...), if the data module knows it (pairs).
        raw_condition: The condition as the data module gave it, e.g. with prompts as text.
        pair: Noise and the teacher's x0 for it, both (B, ...), once a method has made or read them.
        rollouts: The student's samples by the role in whose turn they were made; see ``Distiller.rollout``.
        score_inputs: Where scores are compared, by the critic's role.
        comparisons: What teacher and critic answered there, by the critic's role.
        denoised: Where critics learn, by role.
        features: What a network showed while its scores were compared, by who watched it.
        states: Where a student that goes on from turn to turn has come, (B, ...), in order.
        targets: Where the teacher was at the same times, (B, ...).
    """

    x0: Tensor | None
    condition: Condition
    draws: Draws
    noise: Tensor | None = None
    raw_condition: Mapping[str, Any] = field(default_factory=dict)
    pair: tuple[Tensor, Tensor] | None = None
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    score_inputs: dict[str, ScoreInputs] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    denoised: dict[str, ScoreInputs] = field(default_factory=dict)
    features: dict[nn.Module, dict[str, Tensor]] = field(default_factory=dict)
    states: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first_draws = self.draws
        self._turns: dict[str, int] = {}

    def repeated(self, count: int) -> MicroBatch:
        """Every sample ``count`` times in a row, with random numbers of its own: a group for one condition."""

        def rows(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.repeat_interleave(count, dim=0)
            return [entry for entry in value for _ in range(count)]

        return MicroBatch(
            None if self.x0 is None else rows(self.x0),
            {name: rows(value) for name, value in self.condition.items()},
            self.draws.repeated(count),
            raw_condition={name: rows(value) for name, value in self.raw_condition.items()},
        )

    def turn(self, role: str) -> int:
        """Number of the running turn of ``role`` in this iteration, from 0; -1 where nothing is trained."""
        return self._turns.get(role, 0) - 1

    def begin_turn(self, role: str) -> None:
        """Let ``role`` be updated; if not for the first time in this iteration, on samples and noise of its own."""
        turn = self._turns.get(role, 0)
        self._turns[role] = turn + 1
        self.draws = self._first_draws.scoped(f"turn{turn}") if turn else self._first_draws
        if turn:
            self.rollouts.pop(role, None)
            self.forget_scores()

    def end_turn(self, role: str) -> None:
        """Let go of the graphs of an update that is done; other roles may still look at its samples."""
        if role in self.rollouts:
            self.rollouts[role] = self.rollouts[role].detach()
        self.forget_scores()

    def forget_samples(self) -> None:
        """Let whoever asks for samples next make them anew, of the same noise."""
        self.rollouts.clear()
        self.forget_scores()

    def forget_scores(self) -> None:
        """Let go of what was compared, and where."""
        self.score_inputs.clear()
        self.comparisons.clear()
        self.denoised.clear()
        self.features.clear()


def size_of(batch: Mapping[str, Any]) -> int:
    """Number of samples of a data module's batch."""
    for value in (batch.get("index"), batch.get("x0"), *batch.get("condition", {}).values()):
        if value is not None:
            return len(value)
    raise UserError("A batch of the data module has no 'index', no 'x0' and no condition; add the samples' numbers.")


def split(batch: Mapping[str, Any], pieces: int, draws: Draws, codec: Codec) -> list[MicroBatch]:
    """Cut a batch into ``pieces`` micro-batches and encode them, unless the data module says that they are encoded.

    Raises:
        UserError: If the batch size is no multiple of ``pieces``.
    """
    size = size_of(batch)
    if size % pieces:
        raise UserError(
            f"A batch of {size} cannot be cut into {pieces} equal pieces; change micro_batches or batch_size."
        )
    step = size // pieces
    x0, noise, encoded = batch.get("x0"), batch.get("noise"), batch.get("encoded", False)
    parts = []
    for start in range(0, size, step):
        rows = slice(start, start + step)
        raw = {name: value[rows] for name, value in batch.get("condition", {}).items()}
        with torch.no_grad():
            part = MicroBatch(
                None if x0 is None else x0[rows] if encoded else codec.encode(x0[rows]),
                raw if encoded else codec.encode_condition(raw),
                draws.part(start, start + step),
                noise=None if noise is None else noise[rows],
                raw_condition=raw,
            )
        parts.append(part)
    return parts
