"""Rollouts: a batch as the method sees it, and the student's samples of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.distiller.micro_batch import MicroBatch, size_of, split
from fastgen.distiller.networks import Networks
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import Sampler
from fastgen.sampling.solvers import Solver

if TYPE_CHECKING:
    pass


class Rollouts(Networks):
    """Cuts batches into micro-batches and makes the samples that losses judge.

    Attributes:
        seed: Seed of all random numbers of the training.
        samples_per_condition: How many samples in a row the data module gives of each condition, on whatever ranks;
            methods that judge groups say more than 1.
        solver: How the teacher generates.
    """

    seed: int
    samples_per_condition: int = 1
    solver: Solver

    def parts(self, scope: str, batch: Mapping[str, Any], number: int, pieces: int = 1) -> list[MicroBatch]:
        """A rank's batch ``number`` as ``pieces`` micro-batches.

        Raises:
            UserError: If the network cannot take what the data module gives.
        """
        network = type(self.student).__name__
        if "prompt" in batch.get("condition", {}) and not self.student.takes_prompts:
            raise UserError(f"The data module gives prompts, but {network} takes none; give labels or another network.")
        parts = split(batch, pieces, self.draws(scope, batch, number), self.codec)
        x0 = parts[0].x0
        if x0 is not None and tuple(x0.shape[1:]) != self.student.sample_shape:
            raise UserError(
                f"Samples of the data have the shape {tuple(x0.shape[1:])}, but {network} is built for "
                f"{self.student.sample_shape}; make height, width and channels of the two equal."
            )
        return parts

    def draws(self, scope: str, batch: Mapping[str, Any], number: int) -> Draws:
        """The random numbers of a rank's batch ``number``, keyed by the samples' global numbers.

        A data module that gives no ``index`` has its samples numbered as if one process read them all.
        """
        index = batch.get("index")
        if index is None:
            first = (number * self.trainer.world_size + self.global_rank) * size_of(batch)
            index = torch.arange(first, first + size_of(batch))
        return Draws(self.seed, index.tolist(), scope, self.device, number)

    def rollout(self, part: MicroBatch, role: str, condition: Condition | None = None) -> Rollout:
        """The student's samples that the turn of ``role`` judges: made when first asked for, then remembered.

        Whoever asks first makes them, a method or an extra, so that extras work on any method and in any order. Only
        the student's own turn records their graph.

        Args:
            part: Whose samples.
            role: Whose turn it is.
            condition: What the student is asked for; default what the data module gave.
        """
        if role not in part.rollouts:
            with torch.set_grad_enabled(role == "student" and torch.is_grad_enabled()):
                part.rollouts[role] = self.make_rollout(part, role, part.condition if condition is None else condition)
        return part.rollouts[role]

    def real_samples(self, part: MicroBatch, beside: Rollout | None = None) -> Tensor | None:
        """What discriminators call real, (B, ...): the data, unless a method learns from the teacher's samples.

        Args:
            part: Whose.
            beside: The student's samples that they are compared with; a method may give both one size.
        """
        return part.x0

    def role_condition(self, part: MicroBatch, role: str, condition: Condition) -> Condition:
        """What ``role`` is told where the student is asked for ``condition``; a method may know more for some roles."""
        return condition

    def student_condition(self, condition: Condition, draws: Draws) -> Condition:
        """What the student is told when it generates; a method whose student has inputs of its own adds them."""
        return condition

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """Samples for the turn of ``role``; a method that knows what they are made from overrides it."""
        draws = part.draws.scoped(self.rollout_scope(role))
        told = self.student_condition(condition, draws)
        made = self.rollout_sampler().rollout(self.student, draws, told, self.noise_dtype())
        return replace(made, condition=condition)

    def rollout_scope(self, role: str) -> str:
        """The scope of the random numbers of such samples."""
        return f"{role}/rollout"

    def rollout_sampler(self) -> Sampler:
        """How the student generates what losses judge: as an extra wants, else as it generates afterwards."""
        wanted = (extra.sampler for extra in self.each_extra() if extra.sampler is not None)
        return next(wanted, self.sampler)

    def noise_dtype(self) -> torch.dtype:
        """The dtype of noise in training: fp32, or fp64 for fp64 networks."""
        return torch.promote_types(next(self.student.parameters()).dtype, torch.float32)

    def pair(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Standard normal noise and the teacher's x0 for it, both (B, ...); made once."""
        if part.pair is None:
            part.pair = self.make_pair(part)
        return part.pair

    @torch.no_grad()
    def make_pair(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """The pair of the data module, or what the solver makes of drawn noise."""
        if part.noise is not None and part.x0 is not None:
            return part.noise, part.x0
        if self.teacher is None:
            raise UserError(
                f"{type(self).__name__} has neither pairs nor a teacher to make them; give the data module Pairs, or "
                "model.init_args.teacher."
            )
        noise = part.draws.normal("pair", self.teacher.sample_shape, self.noise_dtype())
        return noise, self.solver.solve(self.teacher, noise, part.condition, draws=part.draws.scoped("pair"))
