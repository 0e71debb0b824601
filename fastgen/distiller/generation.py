"""Generation: samples for people, and the losses of held-out batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.borrowed import WithTeacher
from fastgen.distiller.micro_batch import size_of
from fastgen.distiller.updates import Updates
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.solvers import Solver

if TYPE_CHECKING:
    pass


class Generation(Updates):
    """The one door to samples, and validation.

    Attributes:
        solver: How the teacher generates.
    """

    solver: Solver

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The losses of every role on held-out samples, logged as ``val/<role>/<name>``."""
        (part,) = self.parts("validation", batch, batch_idx)
        for role in self.roles():
            for name, value in self.losses(role, part).items():
                self.log(f"val/{role}/{name}", value, batch_size=size_of(batch), sync_dist=True, on_epoch=True)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Give validation losses the same x axis as training losses."""
        self.log("step", float(self.student_updates))

    def on_test_epoch_end(self) -> None:
        """As validation."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Samples for a batch ``{"seed": (B,), "condition": {...}}``."""
        return self.sample(batch["seed"].tolist(), batch["condition"])

    @torch.no_grad()
    def sample(
        self, seeds: Sequence[int], condition: Mapping[str, Any], steps: int | None = None, role: str = "average"
    ) -> Tensor:
        """The one door to samples.

        A sample is a function of its seed, its condition and the weights: not of the batch or the number of ranks.

        Args:
            seeds: One per sample.
            condition: As the data module gives it, e.g. ``{"label": (B,)}`` or ``{"prompt": [...]}``.
            steps: Network calls of the student or solver steps of the teacher; default as trained or configured.
            role: See :meth:`network`.

        Returns:
            Images (B, C, H, W), nominally in [-1, 1], or points (B, D); fp32.
        """
        with self.inference_precision():
            x0 = self.latents(seeds, self.encode_condition(condition), steps, role)
            return self.codec.decode(x0).float()

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        """A data module's condition on this device, as the denoiser takes it."""
        return self.codec.encode_condition(
            {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in condition.items()}
        )

    @torch.no_grad()
    def latents(
        self, seeds: Sequence[int], condition: Condition, steps: int | None = None, role: str = "average"
    ) -> Tensor:
        """What :meth:`sample` decodes: x0 (B, ...) in the denoiser's space, for an encoded condition."""
        if steps is not None and steps < 1:
            raise UserError(f"A sample needs at least one step, got {steps}.")
        denoiser = self.network(role)
        draws = Draws(0, list(seeds), "sample", self.device)
        modes = [(module, module.training) for module in denoiser.modules()]
        denoiser.eval()
        try:
            if role == "teacher":
                noise = denoiser.process.prior(draws, denoiser.sample_shape)
                return self.solver.solve(denoiser, noise, condition, steps, draws)
            return self.generate(denoiser, draws, condition, steps)
        finally:
            for module, mode in modes:
                module.training = mode

    def generate(self, denoiser: Denoiser, draws: Draws, condition: Condition, steps: int | None) -> Tensor:
        """x0 (B, ...) from the student or an average of it."""
        if self.sampler.asks_teacher and self.teacher is not None:
            denoiser = WithTeacher(denoiser, self.teacher, self.solver.guidance)
        return self.sampler.sample(denoiser, draws, self.student_condition(condition, draws), steps)

    def evaluations(self, role: str, steps: int | None = None) -> int:
        """Network calls per sample (NFE) of :meth:`sample`."""
        if role == "teacher":
            return self.solver.evaluations(steps or self.solver.steps)
        return self.sampler.evaluations(steps)

    def inference_precision(self) -> Any:
        """The trainer's precision, if there is one."""
        return self._trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()
