"""What one call is worth at each noise level: which of a student's calls its samples owe their errors to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from fastgen import checks
from fastgen.callbacks.clock import SideWork
from fastgen.callbacks.interruption import stop_requested
from fastgen.callbacks.sampling import conditions, reference, sample_batches
from fastgen.callbacks.trainer_access import data_of, distiller, log_scalars
from fastgen.callbacks.updates import AfterStudentUpdates, is_due
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite
from fastgen.metrics.measuring import make_ready
from fastgen.randomness import Draws

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


class LevelErrors(AfterStudentUpdates, SideWork):
    """Measures single calls from exactly noised real samples, level by level, beside the student's own samples.

    Several calls of a consistency model can be worse than one, and worse the longer it is trained: where a call is bad
    from exactly noised data already, its level gets too little of the training (weigh it, or move the call); where
    single calls are good and samples bad, the student does not see its own intermediate samples in training. To first
    order the variance's error after some calls is ``e_n = 2 delta(t_n) + cos^2 t_n e_{n-1}``, delta that of one call.

    Numbers are ``levels/<metric>_at_<level>`` and ``levels/<metric>_samples``, in the logger and in
    ``trainer.callback_metrics``. The data module must have real samples; those of its training are taken.

    Args:
        suite: The metrics; one of its own, not that of ``Evaluate``.
        levels: Noise levels sigma / alpha.
        count: Number of samples, on every rank.
        batch_size: Samples per network call.
        every_n_steps: Student updates between measurements; 0 for only the end.
        seed: Sample i is made from seed ``seed + i``.
        role: Whose calls: ``average``, ``student`` or an EMA's name.
    """

    def __init__(
        self,
        suite: MetricSuite,
        levels: Sequence[float] = (10.0, 2.0, 0.7, 0.3),
        count: int = 1000,
        batch_size: int = 500,
        every_n_steps: int = 0,
        seed: int = 20_000,
        role: str = "average",
    ) -> None:
        checks.not_empty(self, levels=levels, role=role)
        checks.positive(self, levels=levels)
        checks.whole(self, 2, count=count)
        checks.whole(self, batch_size=batch_size)
        checks.whole(self, 0, every_n_steps=every_n_steps)
        checks.seed(self, seed=seed)
        super().__init__()
        self.suite = suite
        self.levels = list(levels)
        self.count = count
        self.batch_size = batch_size
        self.every_n_steps = every_n_steps
        self.seed = seed
        self.role = role
        self._measured: int | None = None

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        if is_due(trainer.global_step, self.every_n_steps):
            self.measure(trainer, method)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._measured != trainer.global_step:
            self.measure(trainer, distiller(module))

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        make_ready(self.suite, lambda: conditions(trainer, [0]))

    def real(self, trainer: Trainer, numbers: Sequence[int]) -> dict[str, Any]:
        """A batch of training samples, again from the first when all were taken."""
        data = data_of(trainer)
        source = None if data is None else data.sources[0]
        if source is None:
            raise UserError("LevelErrors needs a data module; leave it out.")
        return source.batch([i % source.size if source.size else i for i in numbers])

    def one_call(self, method: Distiller, batch: Mapping[str, Any], level: float, first: int) -> Tensor:
        """Decoded predictions (B, ...) of one call from the samples of a batch at a noise level.

        Raises:
            UserError: If it has no samples.
        """
        (part,) = method.parts("levels", batch, 0)
        if part.x0 is None:
            raise UserError("LevelErrors needs real samples, and the data module has none; leave it out.")
        network, x0 = method.network(self.role), part.x0
        seeds = [self.seed + first + i for i in range(len(x0))]
        draws, process = Draws(0, seeds, f"level {level:g}", method.device), network.process
        t = process.time(torch.full((len(x0),), level, dtype=torch.float64, device=x0.device)).clamp(max=process.t_max)
        x_t = process.add_noise(x0, draws.normal("noise", x0.shape[1:], x0.dtype), t)
        clean = torch.full_like(t, process.t_clean) if network.takes_second_time else None
        told = method.student_condition(part.condition, draws)
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        with method.inference_precision():
            made = method.codec.decode(network(x_t, t, told, clean).x0).float()
        for module, mode in modes:
            module.training = mode
        return made

    def values(self, batches: Iterable[tuple[Tensor, Mapping[str, Any]]]) -> dict[str, float]:
        """The suite's numbers of samples with their conditions."""
        self.suite.reset()
        first = self.seed
        for samples, told in batches:
            self.suite.observe(samples, told, list(range(first, first + len(samples))))
            first += len(samples)
        found = {name: float(value) for name, value in self.suite.compute().items()}
        self.suite.reset()
        return found

    def measure(self, trainer: Trainer, method: Distiller) -> None:
        """Measure the current weights and log what was found."""
        if stop_requested(trainer):
            return
        self._measured = trainer.global_step
        found: dict[str, float] = {}
        with self.side_work():
            self.suite.to(method.device)
            self.suite.set_reference(reference(trainer))
            numbers = list(range(self.count))
            cuts = [numbers[i : i + self.batch_size] for i in range(0, self.count, self.batch_size)]
            for level in self.levels:
                real = ((self.real(trainer, cut), cut[0]) for cut in cuts)
                single = ((self.one_call(method, batch, level, k), batch.get("condition", {})) for batch, k in real)
                found |= {f"levels/{name}_at_{level:g}": value for name, value in self.values(single).items()}
            seeds = [self.seed + i for i in numbers]
            made = sample_batches(trainer, method, numbers, seeds, self.batch_size, self.role, None)
            found |= {f"levels/{name}_samples": value for name, value in self.values(made).items()}
        log_scalars(trainer, found, trainer.global_step)
