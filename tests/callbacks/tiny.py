"""A distillation that takes milliseconds: points on a line, or 4x4 images."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.data.base import DistillationData
from fastgen.data.sources import BatchSource, TensorSource
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.processes import EDM
from fastgen.sampling.solvers import Euler

BATCH = 8


class TinyNet(Denoiser):
    """x0 = W x_t / (1 + t) + b per pixel channel, with a buffer that counts."""

    def __init__(self, sample_shape: tuple[int, ...] = (2,)) -> None:
        super().__init__(EDM(), "x0", sample_shape)
        size = torch.Size(sample_shape).numel()
        torch.manual_seed(0)
        self.layer = nn.Linear(size, size)
        self.register_buffer("calls", torch.zeros(()))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        flat = x_t.flatten(1) / (1 + t.float()[:, None])
        return self.layer(flat.to(self.layer.weight.dtype)).reshape(x_t.shape).float()


class TinyDistiller(Distiller):
    """Pulls the student's samples to the real ones; a "critic" parameter takes its turn too."""

    def __init__(self, shape: tuple[int, ...] = (2,), lr: float = 0.1, critic_every: int = 1, **kwargs: Any) -> None:
        super().__init__(
            teacher=functools.partial(TinyNet, shape),
            student_optimizer=functools.partial(torch.optim.SGD, lr=lr),
            solver=Euler(steps=3),
            **kwargs,
        )
        self.critic_every = critic_every
        self.optimizer_factories["critic"] = functools.partial(torch.optim.SGD, lr=lr)
        self.spoiled: set[int] = set()
        self.magnify: dict[int, float] = {}

    def build_roles(self) -> None:
        self.critic = nn.Linear(1, 1)

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.student], "critic": [self.critic]}

    def turns(self, iteration: int) -> tuple[str, ...]:
        return ("critic", "student") if (iteration + 1) % self.critic_every == 0 else ("critic",)

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        x0 = self.sampler.rollout(self.student, part.draws, part.condition).x0
        self.record("health/sample_std", x0.std())
        loss = (x0 - part.x0).square().mean() * self.magnify.get(self.iteration, 1.0)
        return {"match": loss * float("nan") if self.iteration in self.spoiled else loss}

    def critic_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        return {"fit": self.critic(torch.ones(1, 1)).square().mean()}


class TinyData(DistillationData):
    """64 fixed samples with four labels."""

    def __init__(self, shape: tuple[int, ...] = (2,), batch_size: int = BATCH) -> None:
        super().__init__(batch_size=batch_size, predict_count=5)
        self.shape = shape

    @property
    def num_classes(self) -> int:
        return 4

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        x0 = 0.5 * torch.randn(64, *self.shape, generator=torch.Generator().manual_seed(1))
        return TensorSource(x0, torch.arange(64) % 4), TensorSource(x0[:16], torch.arange(16) % 4)

    def reference(self) -> dict[str, Tensor]:
        return {"samples": self.sources[0].x0}


class Clock:
    """Stands in for the module ``time``: it moves when it is told to, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


class TinySuite(MetricSuite):
    """Mean and count of the samples; uses up random numbers, as a careless metric would."""

    needs_reference = True

    def __init__(self) -> None:
        super().__init__()
        self.reference: dict[str, Tensor] | None = None
        self.references = 0
        self.batches: list[Tensor] = []
        self.labels: list[Tensor] = []

    def metrics(self) -> dict[str, SampleMetric]:
        return {}

    def to(self, device: torch.device) -> TinySuite:
        self.device = device
        return self

    def set_reference(self, reference: dict[str, Tensor] | None) -> None:
        self.reference = reference
        self.references += 1

    def reset(self) -> None:
        self.batches, self.labels = [], []

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        torch.rand(3)
        self.batches.append(samples)
        self.labels.append(label)

    def compute(self) -> dict[str, float]:
        samples = torch.cat(self.batches)
        return {"size": float(samples.square().mean()), "count": float(len(samples))}

    def fingerprint(self) -> str:
        return "tiny"


def trainer(tmp_path: Path, callbacks: list[Any], max_steps: int = 10, **options: Any) -> Trainer:
    """A quiet CPU trainer."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "max_steps": max_steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": any(type(c).__name__ == "Progress" for c in callbacks),
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1,
        "callbacks": callbacks,
    }
    return Trainer(**(settings | options))


def weights(method: Distiller) -> dict[str, Tensor]:
    """A copy of everything trained."""
    return {name: value.clone() for name, value in method.state_dict().items()}
