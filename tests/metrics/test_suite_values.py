"""The numbers of the suites on fixed samples are those that they have always been.

``python tests/metrics/test_suite_values.py`` writes them anew, which only a deliberate change of a metric may do.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fastgen.data import Digits
from fastgen.denoisers.exact.mixtures import RingMixture
from fastgen.metrics import (
    ClassAccuracy,
    DuplicateRate,
    ImageMetrics,
    InceptionScore,
    MixtureMetrics,
    Pixels,
    VendiScore,
)
from fastgen.metrics.suites.image_suite import DEFAULT
from fastgen.processes import EDM

FILE = Path(__file__).with_name("suite_values.json")


class Classifier(Pixels):
    """Pixels with the first ten of them as scores."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return 5 * features[:, :10]


def values() -> dict[str, dict[str, float]]:
    real = Digits().reference()
    assert real is not None
    x, label = real["samples"][:400], real["label"][:400]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noisy = (x.float() / 127.5 - 1 + 0.3 * noise).clamp(-1, 1)
    everything = [*DEFAULT, DuplicateRate(), InceptionScore(), VendiScore()]
    found: dict[str, dict[str, float]] = {}

    suite = ImageMetrics(Classifier(4, 1), metrics=everything)
    suite.set_reference(real)
    for rows in (slice(0, 150), slice(150, 400)):
        suite.update(noisy[rows], label[rows])
    found["data"] = suite.compute()

    suite = ImageMetrics(Classifier(4, 1), metrics=[*DEFAULT[:4], ClassAccuracy()], prefix="p_")
    suite.update(noisy[:200], label[:200])
    suite.refer_to_teacher()
    suite.update(noisy[200:], label[200:])
    found["teacher"] = suite.compute()

    for classes in (0, 2):
        law = RingMixture(EDM(), num_classes=classes)
        of = torch.arange(300) % 2 if classes else None
        points = law.sample(300, torch.Generator().manual_seed(1), of) * 1.05
        exact = MixtureMetrics(lambda: law)  # noqa: B023  built at once
        exact.update(points, of)
        found[f"law with {classes} classes"] = exact.compute()
    return found


def test_numbers_are_what_they_were():
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    found = values()
    assert found.keys() == kept.keys()
    for name, numbers in found.items():
        assert numbers == pytest.approx(kept[name], rel=1e-9, abs=1e-12), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps(values(), indent=1) + "\n", encoding="utf-8")
