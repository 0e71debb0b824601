"""The problems: a teacher, the network that every student begins as, and how samples are judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.data import Digits
from fastgen.denoisers import ImageMixture, RingMixture
from fastgen.metrics import (
    ClassAccuracy,
    DigitsClassifier,
    FrechetDistance,
    FrechetRatio,
    ImageMetrics,
    PrecisionRecall,
)
from fastgen.metrics.laws.mixture import ModeCoverage, sliced_wasserstein2
from fastgen.metrics.samples.frechet import frechet_distance, moments
from fastgen.metrics.samples.precision_recall import precision_recall
from fastgen.processes import EDM
from fastgen.randomness import Draws, generator
from fastgen.sampling.solvers import Heun

Config = dict[str, Any]
"""A class and its arguments as in YAML: plain values, so that a recipe has a fingerprint."""

NEIGHBOURS = 5
FLOORS = 4
"""Sets of fresh samples over which a floor is averaged."""
MANY_STEPS = 18
"""Heun steps of the teacher as it is meant to be used: 35 calls."""


def part(class_path: str, **init_args: Any) -> Config:
    """A class with arguments."""
    return {"class_path": class_path, "init_args": init_args}


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        name: For the command line and files.
        title: For the table.
        teacher: The teacher: an exact law, or a network.
        network: The student's network without process and weights.
        data: The data module without its batch size.
        judge: How samples are judged.
        sigma_data: Standard deviation of the data.
        levels: Noise levels of four calls of score distillation; one call uses the first, two the first and the third.
        high: Noise level at which the data have drowned, where consistency models begin instead.
        budget: Network evaluations times samples that a training may use.
        batch_size: Of all methods.
        lr: Learning rate unless a recipe says otherwise.
        guidance: Scale of the teacher's guidance.
        start_updates: Updates of the denoiser training that every student begins with; 0 if the teacher's own weights
            are the start.
        points: Evaluations during a training, evenly spaced; the last is the result.
    """

    name: str
    title: str
    teacher: Config
    network: Config
    data: Config
    judge: Judge = field(repr=False)
    sigma_data: float
    levels: tuple[float, float, float, float]
    high: float
    budget: int
    batch_size: int
    lr: float
    guidance: float = 1.0
    start_updates: int = 3000
    points: int = 4

    def student(self, weights: str | None, process: str = "EDM") -> Config:
        """The student's network; its weights know noise levels, so they fit every process."""
        return part(
            self.network["class_path"], **self.network["init_args"], process={"class_path": process}, weights=weights
        )

    def check(self) -> None:
        """Find out before anything runs whether all is there.

        Raises:
            UserError: If the teacher or the data are not part of this machine.
        """

    def prepare(self, folder: Path) -> None:
        """Told where the records of single runs lie, in every process."""

    def further_rows(self) -> dict[str, list[dict[str, Any]]]:
        """Rows beside those of the teacher's solvers, by role: ``solver``, ``steps``, ``calls``, the judge's values."""
        return {}

    @property
    def settings(self) -> Config:
        """All that a run depends on."""
        named = ("teacher", "network", "data", "sigma_data", "budget", "batch_size", "guidance", "start_updates")
        return {name: getattr(self, name) for name in named} | {"judge": self.judge.settings}


class Judge(ABC):
    """Turns samples into numbers.

    Attributes:
        count: Number of samples.
        distance: What ``values["distance"]`` is.
        num_classes: Number of labels, which evaluation samples take in turn; 0 for none.
    """

    count: int
    distance: str
    num_classes: int = 0

    @property
    def settings(self) -> Config:
        """What the numbers depend on."""
        return {"distance": self.distance, "count": self.count}

    def condition(self, indices: range) -> dict[str, Any]:
        """Conditions of evaluation samples, as a data module gives them."""
        return {"label": torch.tensor(list(indices)) % self.num_classes} if self.num_classes else {}

    def pair_condition(self, count: int) -> Condition:
        """Conditions of training pairs, as the network takes them."""
        return self.condition(range(count))

    @abstractmethod
    def floor(self) -> float:
        """The distance of a perfect sampler."""

    @abstractmethod
    def values(self, samples: Tensor) -> dict[str, float]:
        """``distance``, ``coverage``, ``precision``, ``recall`` of ``count`` samples."""


def squared_energy_distance(x: Tensor, y: Tensor) -> float:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of two sets (N, D) and (M, D), unbiased (Szekely & Rizzo 2013)."""
    within = sum(float(torch.cdist(z, z).sum()) / (len(z) * (len(z) - 1)) for z in (x.double(), y.double()))
    return 2.0 * float(torch.cdist(x.double(), y.double()).mean()) - within


class PointsJudge(Judge):
    """Sliced transport distance to the law, exact but for the sampling; modes of the law.

    Exact assignment takes minutes for samples that lie in one heap, as those of an untrained student do.
    """

    distance = "sliced W2"
    count = 8000

    def __init__(self) -> None:
        self.law = RingMixture(EDM())

    def fresh(self, name: str) -> Tensor:
        """Samples of the law."""
        return self.law.sample(self.count, generator("oracle", name))

    def floor(self) -> float:
        reference = self.fresh("reference")
        return sum(sliced_wasserstein2(self.fresh(f"floor{i}"), reference) for i in range(FLOORS)) / FLOORS

    def values(self, samples: Tensor) -> dict[str, float]:
        reference = self.fresh("reference")
        modes = ModeCoverage().build(self.law)
        modes.update(samples)
        found = modes.compute()
        near = precision_recall(samples[:2000], reference[:2000], NEIGHBOURS)
        return {
            "distance": sliced_wasserstein2(samples, reference),
            "coverage": found["mode_coverage"],
            "precision": near["precision"],
            "recall": near["recall"],
            "mode_kl": found["mode_kl"],
            "high_quality": found["high_quality"],
        }


class GuidedJudge(Judge):
    """Energy distance within each class to what many guided steps of the teacher give, and the modes that these have.

    Guided scores are those of no law, so the solver's own samples of other seeds are the truth here. The modes of a
    class lie so far apart that a transport distance of 2000 samples would be that of their chance frequencies.
    """

    distance = "energy in classes"
    count = 8000
    num_classes = 4

    def __init__(self, guidance: float) -> None:
        self.law = RingMixture(EDM(), modes=12, num_classes=self.num_classes)
        self.guidance = guidance
        self.made: dict[int, Tensor] = {}

    @property
    def settings(self) -> Config:
        return super().settings | {"guidance": self.guidance}

    def guided(self, first_seed: int) -> Tensor:
        """The teacher's samples."""
        if first_seed not in self.made:
            noise = Draws(0, range(first_seed, first_seed + self.count), "sample").normal("noise", (2,))
            solver = Heun(MANY_STEPS, self.guidance)
            self.made[first_seed] = solver.solve(self.law, noise, self.condition(range(self.count)))
        return self.made[first_seed]

    def energy(self, samples: Tensor) -> float:
        """Root of the mean over the classes of the squared distance; what chance makes negative is 0."""
        label, reference = self.condition(range(self.count))["label"], self.guided(1_000_000)
        of_class = [
            squared_energy_distance(samples[label == k], reference[label == k]) for k in range(self.num_classes)
        ]
        return math.sqrt(max(0.0, sum(of_class) / self.num_classes))

    def floor(self) -> float:
        return sum(self.energy(self.guided(2_000_000 + i * self.count)) for i in range(FLOORS)) / FLOORS

    def values(self, samples: Tensor) -> dict[str, float]:
        reference = self.guided(1_000_000)
        label = self.condition(range(self.count))["label"]

        modes = len(self.law.means)

        def histogram(points: Tensor) -> Tensor:
            owner = self.law.responsibilities(points).argmax(1)
            return torch.bincount(modes * label + owner, minlength=modes * self.num_classes)

        # A mode of a class counts as found if it gets a fifth of the samples that the teacher gives it.
        expected, got = histogram(reference), histogram(samples)
        there = expected > 0.01 * self.count / self.num_classes
        near = precision_recall(samples[:2000], reference[:2000], NEIGHBOURS)
        right = self.law.classes[self.law.responsibilities(samples).argmax(1)] == label
        return {
            "distance": self.energy(samples),
            "coverage": float((got >= 0.2 * expected)[there].double().mean()),
            "precision": near["precision"],
            "recall": near["recall"],
            "accuracy": float(right.double().mean()),
        }


class PixelJudge(Judge):
    """Fréchet distance to the law's exact mean and covariance in pixel space; modes of the law.

    A sample counts for the Gaussian that most probably made it: whether it hits it is a matter of the faint white noise
    of 64 pixels, so of fidelity.
    """

    distance = "Fréchet, pixels"
    count = 2000

    def __init__(self, law: ImageMixture) -> None:
        self.law = law

    @property
    def settings(self) -> Config:
        return super().settings | {"modes": "nearest"}

    def fresh(self, name: str, count: int) -> Tensor:
        """Samples of the law, (count, D)."""
        return self.law.sample(count, generator("oracle", name)).flatten(1)

    def frechet(self, samples: Tensor) -> float:
        """To the law itself."""
        return frechet_distance(*moments(samples), self.law.mean, self.law.covariance)

    def floor(self) -> float:
        return sum(self.frechet(self.fresh(f"floor{i}", self.count)) for i in range(FLOORS)) / FLOORS

    def values(self, samples: Tensor) -> dict[str, float]:
        modes = ModeCoverage().build(self.law)
        modes.update(samples)
        found = modes.compute()
        near = precision_recall(samples.flatten(1)[:2000], self.fresh("reference", 2000), NEIGHBOURS)
        return {
            "distance": self.frechet(samples.flatten(1)),
            "coverage": float((modes.samples_of >= modes.found_share * modes.expected_of).double().mean()),
            "precision": near["precision"],
            "recall": near["recall"],
            "mode_kl": found["mode_kl"],
            "high_quality": found["high_quality"],
        }


class DigitsJudge(Judge):
    """Fréchet distance of the digits classifier's features to the training scans; k-NN coverage of these."""

    distance = "Fréchet, features"
    count = 2000
    num_classes = 10

    @cached_property
    def suite(self) -> ImageMetrics:
        """The metrics, with their reference."""
        suite = ImageMetrics(DigitsClassifier(), metrics=[FrechetDistance(), PrecisionRecall(), ClassAccuracy()])
        suite.set_reference(Digits().reference())
        return suite

    def floor(self) -> float:
        """Of half the scans against the other half, which is far fewer than ``count``: a coarse bound from above."""
        suite = ImageMetrics(DigitsClassifier(), metrics=[FrechetRatio()])
        reference = Digits().reference()
        suite.set_reference(reference)
        suite.update(reference["samples"].float() / 127.5 - 1.0, reference["label"])
        return float(suite.compute()["frechet_floor"])

    def values(self, samples: Tensor) -> dict[str, float]:
        self.suite.reset()
        self.suite.update(samples, self.condition(range(self.count))["label"])
        numbers = self.suite.compute()
        kept = {name: float(numbers[name]) for name in ("precision", "recall", "coverage", "accuracy")}
        return {"distance": float(numbers["frechet"]), **kept}


def ring_problem() -> Problem:
    law = part("RingMixture", process={"class_path": "EDM"})
    return Problem(
        name="ring",
        title="2-D mixture, exact teacher",
        teacher=law,
        network=part("MLP"),
        data=part("Mixture", distribution=law, with_x0=True),
        judge=PointsJudge(),
        sigma_data=0.9,
        levels=(5.0, 1.5, 0.8, 0.3),
        high=10.0,
        budget=2_000_000,
        batch_size=512,
        lr=1e-3,
    )


def guided_problem(guidance: float = 2.0) -> Problem:
    law = part("RingMixture", process={"class_path": "EDM"}, modes=12, num_classes=4)
    return Problem(
        name="guided",
        title=f"class-conditional mixture, exact teacher with guidance {guidance:g}",
        teacher=law,
        network=part("MLP", num_classes=4),
        data=part("Mixture", distribution=law, with_x0=True),
        judge=GuidedJudge(guidance),
        sigma_data=0.9,
        levels=(5.0, 1.5, 0.8, 0.3),
        high=10.0,
        budget=2_000_000,
        batch_size=512,
        lr=1e-3,
        guidance=guidance,
    )


def images_problem() -> Problem:
    law = part("ImageMixture", process={"class_path": "EDM"}, resolution=8)
    return Problem(
        name="images",
        title="low-rank mixture of images, exact teacher",
        teacher=law,
        network=part("UNet", sigma_data=0.44),
        data=part("Mixture", distribution=law, with_x0=True),
        judge=PixelJudge(ImageMixture(EDM(), resolution=8)),
        sigma_data=0.44,
        levels=(2.5, 1.0, 0.5, 0.2),
        high=10.0,
        budget=80_000,
        batch_size=32,
        lr=5e-4,
    )


def digits_problem() -> Problem:
    network = part("UNet", num_classes=10, sigma_data=0.75)
    weights = "asset:teacher_digits.safetensors"
    return Problem(
        name="digits",
        title="digits, trained teacher",
        teacher=part("UNet", **network["init_args"], process={"class_path": "EDM"}, weights=weights),
        network=network,
        data=part("Digits"),
        judge=DigitsJudge(),
        sigma_data=0.75,
        levels=(2.5, 1.2, 0.7, 0.3),
        high=10.0,
        budget=80_000,
        batch_size=32,
        lr=5e-4,
        start_updates=0,
    )


def text_problem() -> Problem:
    from benchmarks.oracle.text import text_problem as make

    return make()


PROBLEMS: Mapping[str, Any] = {
    "ring": ring_problem,
    "guided": guided_problem,
    "images": images_problem,
    "digits": digits_problem,
    "text": text_problem,
}
