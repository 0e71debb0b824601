"""The contract of a metric: samples come in batches, a reference is set once, numbers come out with names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from fastgen.errors import UserError
from fastgen.randomness import generator

_MERGE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    dim_zero_sum: torch.add,
    dim_zero_max: torch.maximum,
    dim_zero_min: torch.minimum,
}
"""How two values of a state become one, by how torchmetrics reduces it over ranks."""


class SampleMetric(Metric, ABC):
    """A number (or a few) about samples, reduced over ranks by torchmetrics.

    ``samples`` are whatever the metric is about: features (B, D), logits (B, K) or points (B, D). The reference is no
    state: every rank sets the whole of it, and ``reset()`` keeps it.

    Attributes:
        needs_reference: Whether the numbers compare with a reference.
        needs_prompts: Whether the samples must have been made from texts.
        shows_fidelity: Whether a number says how good single samples are, or how close their law is to the reference.
        shows_coverage: Whether a number says how much of the law the samples reach.
    """

    needs_reference: bool = False
    needs_prompts: bool = False
    shows_fidelity: bool = False
    shows_coverage: bool = False
    full_state_update = False  # states are replaced, never written in place: a batch may come inside inference mode

    @abstractmethod
    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in a batch, ``label`` (B,) int64 or ``None``."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers over all batches of all ranks. Every rank must call it."""

    def load(self) -> None:
        """Read the weights that the metric needs, if any; raises a ``UserError`` if they are missing or wrong."""

    def set_reference(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Compare with ``samples`` from now on. Metrics without a reference ignore it."""
        self._computed = None

    def partial_state(self) -> dict[str, Tensor]:
        """This rank's states so far, by name; lists as one tensor, empty ones left out."""
        state: dict[str, Tensor] = {}
        for name in self._defaults:
            value = getattr(self, name)
            if isinstance(value, Tensor) or value:
                state[name] = dim_zero_cat(value)
        return state

    def add_partial_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as if this rank had taken in what gave ``state`` too (see :meth:`partial_state`)."""
        self._computed = None
        self._update_count += 1
        for name, value in state.items():
            own, value = getattr(self, name), value.to(self.device)
            if isinstance(own, list):
                own.append(value)
            else:
                setattr(self, name, _MERGE[self._reductions[name]](own, value))


class CollectingMetric(SampleMetric):
    """A metric that needs all samples at once, flattened to (N, D).

    Batches are kept as they come: several metrics that are fed the same tensor share its memory.

    Args:
        num_features: D.
    """

    features: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.reference: Tensor | None = None
        self.reference_label: Tensor | None = None
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        assert isinstance(self.features, list) and isinstance(self.labels, list)
        self.features.append(samples.detach().flatten(1).to(self.device, torch.float32))
        if label is None:  # a state must exist on all ranks; -1 stands for "no label"
            label = torch.full((len(samples),), -1)
        self.labels.append(label.to(self.device, torch.int64))

    def set_reference(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Compare with ``samples`` (N, ...)."""
        super().set_reference(samples, label)
        self.reference = samples.detach().flatten(1).float()
        self.reference_label = label

    def gathered(self) -> tuple[Tensor, Tensor | None]:
        """The samples of all ranks (N, D) in fp32, as they came, and their labels. Every rank must call it."""
        with self.sync_context(should_sync=self._to_sync):
            samples, label = self.collected()
            return samples.float(), label

    def share(self, other: CollectingMetric) -> None:
        """Take the other's batches as one's own; they lie in memory once."""
        assert isinstance(other.features, list) and isinstance(other.labels, list)
        self.features, self.labels = list(other.features), list(other.labels)
        self._update_count, self._computed = other._update_count, None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, but a rank that saw no sample takes part with an empty tensor of the right width."""
        if isinstance(self.features, list) and not self.features:
            self.features = [torch.empty(0, self.num_features, device=self.device)]
            self.labels = [torch.empty(0, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def collected(self, at_least: int = 2) -> tuple[Tensor, Tensor | None]:
        """All samples (N, D) in fp64 and their labels (N,), in an order of their own.

        The order is that of a fixed random projection, so that whatever is drawn from the samples depends neither on
        the order in which they came nor on the number of ranks.

        Raises:
            UserError: If there are fewer than ``at_least`` samples.
        """
        parts = [self.features] if isinstance(self.features, Tensor) else self.features  # one tensor after a sync
        count = sum(len(part) for part in parts)
        if count < at_least:
            raise UserError(f"{type(self).__name__} needs at least {at_least} samples, got {count}; raise their count.")
        samples, labels = dim_zero_cat(self.features).double(), dim_zero_cat(self.labels)
        direction = torch.randn(samples.shape[1], generator=generator("own order"), dtype=samples.dtype)
        order = torch.argsort(samples @ direction.to(samples.device))
        return samples[order], None if bool((labels < 0).any()) else labels[order]

    def reference_samples(self, at_least: int = 2) -> Tensor:
        """The reference (M, D) in fp64 on the metric's device.

        Raises:
            UserError: If there is none, or it has fewer than ``at_least`` samples.
        """
        count = 0 if self.reference is None else len(self.reference)
        if self.reference is None or count < at_least:
            raise UserError(f"{type(self).__name__} needs a reference of at least {at_least} samples, got {count}.")
        return self.reference.to(self.device).double()


class MetricSuite(ABC):
    """Several metrics with one name each for every number; a plain object, so it never enters a checkpoint.

    Attributes:
        reference_name: What is compared with: ``data``, ``teacher``, a file and its digest, or nothing.
    """

    reference_name: str = ""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    @abstractmethod
    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members."""

    def load(self) -> None:
        """Read weights and reference files, so that whatever is wrong with them shows before anything is sampled.

        Raises:
            UserError: If a file is missing, damaged or of something else.
        """
        for metric in self.metrics().values():
            metric.load()

    def refuse_lone_fidelity(self) -> None:
        """A sampler that has collapsed onto one good sample wins every contest of fidelity.

        Raises:
            UserError: If there is a fidelity number and no coverage number beside it.
        """
        members = self.metrics()
        lone = [name for name, metric in members.items() if metric.shows_fidelity]
        if lone and not any(metric.shows_coverage for metric in members.values()):
            raise UserError(
                f"{type(self).__name__} measure {', '.join(lone)} but no coverage, so a collapsed sampler would win; "
                "add precision_recall (the reference needs the features of single images) or vendi to 'metrics'."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether :meth:`set_reference` must be given samples."""
        return any(metric.needs_reference for metric in self.metrics().values())

    @abstractmethod
    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Compare with ``{"samples": ..., "label"?: ...}`` (see ``DistillationData.reference``), whole on every rank.

        Raises:
            UserError: If the suite needs a reference and gets ``None``.
        """

    def refer_to_teacher(self) -> None:
        """Compare from now on with what was taken in since the last reset, over all ranks: the teacher's samples.

        The numbers are then called ``<name>_to_teacher``. Every rank must call it.

        Raises:
            UserError: If the suite cannot.
        """
        raise UserError(
            f"{type(self).__name__} needs real samples to compare with, and the data module has none; give another "
            "data module, or remove the metrics."
        )

    @property
    def wants_teacher(self) -> int:
        """How many of the first samples the teacher should make from the same noise, for :meth:`remember_teacher`."""
        return 0

    def remember_teacher(self, samples: Tensor, seeds: Sequence[int]) -> None:  # noqa: B027  optional
        """Keep the teacher's samples (B, C, H, W) from ``seeds``; ``reset`` keeps them too. Every rank gets all."""

    @abstractmethod
    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Take in a batch of decoded samples: images in [-1, 1] or uint8, or points; ``label`` (B,) if there are."""

    def observe(self, samples: Tensor, condition: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Take in a batch with all that is known about it; what evaluations call.

        Args:
            samples: As for :meth:`update`.
            condition: What the samples should show: ``{"label": (B,)}``, ``{"prompt": [...]}`` or ``{}``, and how the
                data module groups them, e.g. ``{"style": [...]}``.
            seeds: What they were made from, B numbers.
        """
        self.update(samples, condition.get("label"))

    @abstractmethod
    def fingerprint(self) -> str:
        """What a number depends on besides the samples and the reference; stands next to every published number."""

    def compute(self) -> dict[str, float]:
        """All numbers over all ranks; every rank must call it."""
        numbers: dict[str, float] = {}
        for metric in self.metrics().values():
            numbers.update(metric.compute())
        return numbers

    def reset(self) -> None:
        """Forget the samples, keep the reference."""
        for metric in self.metrics().values():
            metric.reset()

    def partial_state(self) -> dict[str, Tensor]:
        """What this rank took in since the last reset, so that an evaluation that is killed can go on."""
        return {
            f"{name}.{key}": value
            for name, metric in self.metrics().items()
            for key, value in metric.partial_state().items()
        }

    def add_partial_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as if this rank had taken in what gave ``state`` too."""
        for name, metric in self.metrics().items():
            prefix = f"{name}."
            metric.add_partial_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def to(self, device: torch.device | str) -> MetricSuite:
        """Work on ``device`` (needed before ``compute`` where ranks talk over NCCL)."""
        self.device = torch.device(device)
        for metric in self.metrics().values():
            metric.to(self.device)
        return self
