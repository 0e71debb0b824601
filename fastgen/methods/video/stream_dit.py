"""StreamDiT: buffers whose noise rises from frame to frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.teachers.teacher import TeacherTraining
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Process
from fastgen.sampling.clips.buffer import BufferSampler, levels_of
from fastgen.sampling.solvers import Euler, Solver


class BufferedForcing(TeacherTraining):
    """Buffered flow matching of StreamDiT (Kodaira et al. 2025, arXiv 2507.03745).

    The clip is a buffer of N chunks; chunk i (from 1) has a noise level drawn from ``[(i - 1) / N, i / N]`` of those
    that networks are trained at, so that the first frames are almost clean and the last almost noise. The length of
    the chunks is drawn for every update from ``chunks``. One chunk of the whole clip is :class:`TeacherTraining` with
    all levels alike.

    Args:
        student: Builds the network, one of clips that sees all frames.
        chunks: Lengths of chunks; each divides the frames of a clip.
        objective: The loss: flow matching.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser],
        chunks: Sequence[int] = (1, 2, 4, 8, 16),
        objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        checks.not_empty(self, chunks=chunks)
        checks.whole(self, chunks=chunks)
        super().__init__(student=student, objective=objective, student_optimizer=student_optimizer, **kwargs)
        self.chunks = list(chunks)

    def noised(self, part: MicroBatch) -> tuple[Process, Tensor, Tensor, Tensor, Condition]:
        process, _, _, noise, condition = super().noised(part)
        assert part.x0 is not None  # said above
        network, draws = causal(self.student), part.draws.scoped("student")
        chunk = self.chunks[draws.shared_integer("chunk", len(self.chunks))]
        count = chunks_in(network.frames, chunk)
        u = torch.stack([draws.scoped(f"chunk{i}").uniform("time") for i in range(count)], 1)
        position = (torch.arange(count, dtype=torch.float64, device=u.device) + u) / count
        t = network.per_frame(process.position(position).repeat_interleave(chunk, 1))
        return process, process.add_noise(part.x0, noise, t), t, noise, condition


def chunks_in(frames: int, chunk: int) -> int:
    """How many chunks a clip has.

    Raises:
        UserError: If they do not fill it.
    """
    if frames % chunk:
        raise UserError(f"Chunks of {chunk} frames do not fill a clip of {frames}; take a divisor.")
    return frames // chunk


class StreamDiT(Distiller):
    """StreamDiT's multistep distillation (Kodaira et al. 2025, arXiv 2507.03745; no code).

    The teacher, which knows buffers (:class:`BufferedForcing`), takes every chunk of a buffer ``micro_steps`` guided
    steps down to where the next cleaner chunk was; the student does it in one call without guidance: ``mean |x_s -
    x_s*|^2``. So N calls make a chunk, and each call finishes one. The printed text has no loss; regression of whole
    segments is derived.

    Args:
        chunk: Frames of a chunk.
        micro_steps: The teacher's steps per segment.
        metric: Distance of the buffers: the mean squared error.
        solver: The teacher's steps and guidance.
    """

    teacher: Denoiser

    def __init__(
        self,
        chunk: int = 2,
        micro_steps: int = 16,
        metric: Metric = SquaredError(),
        sampler: BufferSampler = BufferSampler(),
        solver: Solver = Euler(128),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, chunk=chunk)
        checks.whole(self, 1, checks.MOST_STEPS, micro_steps=micro_steps)
        checks.kind(self, BufferSampler, sampler=sampler)
        super().__init__(sampler=sampler, solver=solver, student_optimizer=student_optimizer, **kwargs)
        if sampler.chunk != chunk:
            raise UserError(f"StreamDiT: its sampler has chunks of {sampler.chunk}, the method of {chunk}; say one.")
        self.chunk = chunk
        self.micro_steps = micro_steps
        self.metric = metric

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("StreamDiT learns segments of a teacher; give model.init_args.teacher.")
        chunks_in(causal(self.student).frames, self.chunk)

    @torch.no_grad()
    def segment(self, x_t: Tensor, start: Tensor, end: Tensor, condition: Condition) -> Tensor:
        """Where the teacher's steps lead a buffer whose frames are at times ``start`` (B, F), to times ``end``."""
        network, process = causal(self.student), self.student.process
        teacher = on_process(self.teacher, process)
        ways = [start + (end - start) * k / self.micro_steps for k in range(self.micro_steps + 1)]
        for t, s in pairwise(map(network.per_frame, ways)):
            x_t = self.solver.step(teacher, x_t, t, s, condition)
        return x_t

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """One call of the student against a segment of the teacher, all chunks at once."""
        if part.x0 is None:
            raise UserError("StreamDiT noises real clips; the data module gives none ('x0' is missing).")
        network, process = causal(self.student), self.student.process
        levels = levels_of(process, network.frames // self.chunk).to(part.x0.device)
        start, end = (row.repeat_interleave(self.chunk).expand(len(part.x0), -1) for row in (levels[1:], levels[:-1]))
        noise = part.draws.scoped("student").normal("noise", part.x0.shape[1:], part.x0.dtype)
        x_t = process.add_noise(part.x0, noise, network.per_frame(start))
        target = self.segment(x_t, start, end, part.condition)
        call = self.student(x_t, network.per_frame(start), part.condition)
        return {"segment": self.metric(process.jump(call, network.per_frame(end)), target.to(x_t.dtype)).mean()}
