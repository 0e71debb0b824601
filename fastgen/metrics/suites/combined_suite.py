"""Several suites as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.results.kinds import Kinds


class CombinedMetrics(MetricSuite):
    """Several suites on the same samples, e.g. two extractors, or images and text.

    Args:
        suites: The suites. Where two give a number of one name, give one of them a ``prefix``.
    """

    def __init__(self, suites: list[MetricSuite]) -> None:
        super().__init__()
        if not suites:
            raise UserError("CombinedMetrics have no suites; give at least one.")
        self.suites = suites

    def metrics(self) -> Mapping[str, SampleMetric]:
        """The members of all suites, as ``<number of the suite>/<name>``."""
        return {
            f"{i}/{name}": metric for i, suite in enumerate(self.suites) for name, metric in suite.metrics().items()
        }

    def load(self) -> None:
        """Every suite reads its files."""
        for suite in self.suites:
            suite.load()

    @property
    def needs_reference(self) -> bool:
        """Whether any suite does."""
        return any(suite.needs_reference for suite in self.suites)

    def set_reference(self, reference: Mapping[str, Tensor] | None) -> None:
        """Each suite that needs one gets the reference."""
        for suite in self.suites:
            suite.set_reference(reference if suite.needs_reference else None)
        self._name_reference()

    def refer_to_teacher(self) -> None:
        """Each suite that needs a reference takes the samples."""
        for suite in self.suites:
            if suite.needs_reference:
                suite.refer_to_teacher()
            else:
                suite.set_reference(None)
        self._name_reference()
        self.reset()

    @property
    def wants_teacher(self) -> int:
        """The most that any suite wants."""
        return max(suite.wants_teacher for suite in self.suites)

    def remember_teacher(self, samples: Tensor, seeds: Sequence[int]) -> None:
        """Every suite keeps what it wants."""
        for suite in self.suites:
            suite.remember_teacher(samples, seeds)

    def _name_reference(self) -> None:
        self.reference_name = ", ".join(dict.fromkeys(s.reference_name for s in self.suites if s.reference_name))

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Every suite takes the samples in."""
        for suite in self.suites:
            suite.update(samples, label)

    def observe(self, samples: Tensor, condition: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Every suite takes the samples in."""
        for suite in self.suites:
            suite.observe(samples, condition, seeds)

    def kinds(self) -> Kinds:
        """What the numbers of all suites measure."""
        return {name: kind for suite in self.suites for name, kind in suite.kinds().items()}

    def compute(self) -> dict[str, float]:
        """The numbers of all suites.

        Raises:
            UserError: If two suites give different numbers one name.
        """
        numbers: dict[str, float] = {}
        for suite in self.suites:
            for name, value in suite.compute().items():
                if numbers.get(name, value) != value:
                    raise UserError(f"Two suites give a number '{name}'; give one of them another prefix.")
                numbers[name] = value
        return numbers

    def reset(self) -> None:
        """Forget the samples in every suite."""
        for suite in self.suites:
            suite.reset()

    def partial_state(self) -> dict[str, Tensor]:
        """What the suites took in."""
        return {f"{i}/{k}": v for i, suite in enumerate(self.suites) for k, v in suite.partial_state().items()}

    def add_partial_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as if ``state`` had been taken in."""
        for i, suite in enumerate(self.suites):
            prefix = f"{i}/"
            suite.add_partial_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def to(self, device: torch.device | str) -> CombinedMetrics:
        """Work on ``device``."""
        self.device = torch.device(device)
        for suite in self.suites:
            suite.to(device)
        return self

    def fingerprint(self) -> str:
        """Those of all suites."""
        return " + ".join(dict.fromkeys(suite.fingerprint() for suite in self.suites))
