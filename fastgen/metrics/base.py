"""The contract of a metric: samples come in batches, a reference is set once, numbers come out with names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from fastgen.errors import UserError
from fastgen.results.kinds import Aspect, Kinds

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
        numbers: The numbers that :meth:`compute` may give, and what each of them measures.
        needs_reference: Whether the numbers compare with a reference.
        needs_prompts: Whether the samples must have been made from texts.
    """

    numbers: Kinds
    needs_reference: bool = False
    needs_prompts: bool = False
    full_state_update = False  # states are replaced, never written in place: a batch may come inside inference mode

    def shows(self, aspect: Aspect) -> bool:
        """Whether a number measures ``aspect``."""
        return any(kind.aspect == aspect for kind in self.numbers.values())

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take in a batch: ``samples``, and what this kind of metric asks beside them, e.g. ``label`` (B,) int64."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers over all batches of all ranks. Every rank must call it."""

    def load(self) -> None:
        """Read the weights that the metric needs, if any; raises a ``UserError`` if they are missing or wrong."""

    def set_reference(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Compare with ``samples`` from now on. Metrics without a reference ignore it."""
        self._computed = None

    def refer_to_own_samples(self) -> None:
        """Compare from now on with what was taken in by all ranks. Every rank must call it.

        Raises:
            UserError: If the metric keeps too little for that.
        """
        raise UserError(
            f"{type(self).__name__} cannot compare with the teacher's samples; add a metric that keeps all features, "
            "such as PrecisionRecall, or give a reference."
        )

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


class Named(Protocol):
    """A metric as a config names it: settings and what its numbers measure."""

    @property
    def numbers(self) -> Kinds:
        """By name."""


Component = TypeVar("Component", bound=Named)


def members(
    suite: MetricSuite, metrics: Sequence[Component], build: Callable[[Component], SampleMetric]
) -> dict[str, SampleMetric]:
    """The metrics of a suite by the names of their classes, ready to take in samples.

    Raises:
        UserError: If there are none, or two give a number of one name.
    """
    if not metrics:
        raise UserError(f"{type(suite).__name__} have no metrics; name at least one, or remove the suite.")
    built: dict[str, SampleMetric] = {}
    owner: dict[str, str] = {}
    for component in metrics:
        name = type(component).__name__
        for number in component.numbers:
            if number in owner and component.numbers[number].aspect != "bookkeeping":
                raise UserError(
                    f"{type(suite).__name__}: {owner[number]} and {name} both give '{number}'; remove one, or put it "
                    "into a suite of its own with a prefix."
                )
            owner[number] = name
        if name in built:
            name = f"{type(component).__module__}.{name}"
        built[name] = build(component)
        built[name].numbers = component.numbers
        built[name].needs_reference = getattr(component, "needs_reference", False)
    return built


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
        lone = [name for name, metric in members.items() if metric.shows("fidelity")]
        if lone and not any(metric.shows("coverage") for metric in members.values()):
            raise UserError(
                f"{type(self).__name__} measure {', '.join(lone)} but no coverage, so a collapsed sampler would win; "
                "add PrecisionRecall (the reference needs the features of single images) or VendiScore to 'metrics'."
            )

    def kinds(self) -> Kinds:
        """What each number measures, by the name that :meth:`compute` gives it; the names of others say it."""
        return {name: kind for metric in self.metrics().values() for name, kind in metric.numbers.items()}

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
