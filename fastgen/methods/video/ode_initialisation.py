"""ODE initialisation of few-step causal students."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal
from fastgen.denoisers.causal.caches import CachePolicy, FullCache
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.optimizers import BetasAdam
from fastgen.sampling.clips.inputs import chunk_steps, gathered, noised_frames, solver_states, streamed_states
from fastgen.sampling.samplers import ChunkSampler
from fastgen.shapes import where_rows


class ODEInitialisation(TrajectoryDistiller):
    """ODE initialisation of CausVid (Yin et al. 2024, arXiv 2412.07772; github.com/tianweiy/CausVid).

    Loss: ``mean |x(x_tau, tau) - x|^2`` over the frames that are noisy (K of K + 1 on average). The states x_tau lie on
    the teacher's path from noise to x at the times of the student's K calls; every chunk has a time of its own, or is
    clean, and all go through the student together with its mask. With one chunk and no clean one it is a regression on
    inner states of the path.

    ``states: bidirectional`` is CausVid's. ``autoregressive`` is Causal Forcing's (arXiv 2602.02214; thu-ml/Causal-
    Forcing): a causal teacher makes the clip chunk by chunk, and the student's chunks see the clean ones before them.
    Its point is that the path of a frame in a bidirectional flow is no function of that frame's noise.

    Args:
        sampler: How the student generates, and the times of the states.
        states: Whose paths they are.
        clean_frames: Whether a chunk may be clean, as the last of the steps; it then carries no loss.
        cache: What an autoregressive teacher remembers of earlier chunks.
    """

    teacher: Denoiser

    def __init__(
        self,
        sampler: ChunkSampler = ChunkSampler(steps=4),
        states: Literal["bidirectional", "autoregressive"] = "bidirectional",
        clean_frames: bool = True,
        cache: CachePolicy = FullCache(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(sampler=sampler, student_optimizer=student_optimizer, **kwargs)
        self.states = states
        self.clean_frames = clean_frames
        self.cache = cache

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("ODEInitialisation follows a teacher's path; give model.init_args.teacher.")
        causal(self.student)
        if self.states == "autoregressive":
            causal(self.teacher)

    def path(self, noise: Tensor, condition: Condition) -> list[Tensor]:
        """The states (B, ...) of the teacher's path at the times of the student's calls, and its end."""
        times, process = self.sampler.schedule(self.student), self.student.process
        if self.states == "autoregressive":
            return streamed_states(self.solver, self.teacher, noise, condition, times, self.cache)
        return solver_states(self.solver, on_process(self.teacher, process), noise, condition, times)

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Regress the end of the path, from another state of it in every chunk."""
        network, draws = causal(self.student), part.draws.scoped("student")
        noise = part.draws.normal("pair", network.sample_shape, self.noise_dtype())
        states, times = self.path(noise, part.condition), self.sampler.schedule(self.student)
        steps = chunk_steps(network, len(times) + self.clean_frames, draws)
        _, t = noised_frames(network, states[-1], noise, steps, times)
        condition = dict(part.condition)
        if self.states == "autoregressive":
            condition["clean"] = states[-1]
        x0 = self.student(gathered(network, states, steps), t, condition).x0
        share = len(times) / (len(times) + self.clean_frames)
        error = where_rows(network.per_frame(steps < len(times)), (x0 - states[-1]).square(), 0.0)
        return {"regression": error.mean() / share}
