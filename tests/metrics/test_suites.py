"""Chosen metrics, the teacher as reference, several suites at once, and states that can be continued."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgen.denoisers.exact.mixtures import RingMixture
from fastgen.errors import UserError
from fastgen.metrics import (
    CMMD,
    ClassAccuracy,
    CombinedMetrics,
    DuplicateRate,
    FrechetDistance,
    ImageMetrics,
    InceptionScore,
    KernelDistance,
    MixtureMetrics,
    PrecisionRecall,
    VendiScore,
)
from fastgen.metrics.extractors.toy_features import Pixels
from fastgen.metrics.samples.frechet import frechet_distance, moments
from fastgen.metrics.suites.image_suite import DEFAULT
from fastgen.processes import EDM
from fastgen.results.former_names import kind_by_name

ALL = [*DEFAULT, InceptionScore(), CMMD(), VendiScore()]


class Classifier(Pixels):
    """Pixels with the sums of three of them as scores; counts its forward passes."""

    def __init__(self) -> None:
        super().__init__(size=2, channels=1)
        self.images = 0

    def extract(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().extract(images)

    def logits(self, features: Tensor) -> Tensor:
        return 5 * features[:, :3]


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def whole(suite: ImageMetrics | CombinedMetrics, x: Tensor, label: Tensor | None = None) -> dict[str, float]:
    suite.reset()
    suite.update(x, label)
    return suite.compute()


def test_all_metrics_from_one_forward_pass():
    extractor = Classifier()
    suite = ImageMetrics(extractor, metrics=ALL)
    suite.set_reference({"samples": images(80, 0)})
    assert extractor.images == 80
    numbers = whole(suite, images(60, 1), torch.arange(60) % 3)
    assert extractor.images == 140
    assert {"frechet", "frechet_over_floor", "kid", "recall", "accuracy", "inception_score", "cmmd", "vendi"} <= set(
        numbers
    )
    assert all(metric.state_dict() == {} for metric in suite.metrics().values())


def test_every_number_says_what_it_measures():
    image = ImageMetrics(Classifier(), metrics=[*ALL, DuplicateRate()])
    image.set_reference({"samples": images(80, 0)})
    image.update(images(60, 1), torch.arange(60) % 3)
    law = MixtureMetrics(lambda: RingMixture(EDM(), num_classes=2))
    law.update(torch.randn(50, 2), torch.arange(50) % 2)
    for suite in (image, law):
        kinds = suite.kinds()
        for name in suite.compute():
            assert kinds[name] == kind_by_name(name)  # rows written before kinds were say the same by their names


@pytest.mark.parametrize(
    ("metrics", "lone"),
    [
        ([FrechetDistance()], "FrechetDistance"),
        ([KernelDistance(), DuplicateRate(), ClassAccuracy()], "KernelDistance, ClassAccuracy"),
        ([FrechetDistance(), VendiScore()], None),
        ([PrecisionRecall()], None),
        ([DuplicateRate()], None),
        (DEFAULT, None),
    ],
)
def test_fidelity_needs_coverage(metrics: list, lone: str | None):
    suite = ImageMetrics(Pixels(2, 1), metrics=metrics)
    if lone is None:
        suite.refuse_lone_fidelity()
        return
    with pytest.raises(UserError, match=f"measure {lone} but no coverage"):
        suite.refuse_lone_fidelity()
    CombinedMetrics([suite, ImageMetrics(Pixels(2, 1), metrics=[VendiScore()])]).refuse_lone_fidelity()


def test_default_is_what_it_was():
    suite = ImageMetrics(Pixels(2, 1))
    assert list(suite.metrics()) == [
        "FrechetDistance",
        "FrechetRatio",
        "KernelDistance",
        "PrecisionRecall",
        "ClassAccuracy",
    ]


def test_without_a_need_there_is_no_reference():
    suite = ImageMetrics(Pixels(2, 1), metrics=[VendiScore()])
    assert not suite.needs_reference
    suite.set_reference(None)
    assert set(whole(suite, images(30, 0))) == {"vendi"}


def test_no_metric_two_alike_and_a_missing_classifier():
    with pytest.raises(UserError, match="PrecisionRecall and PrecisionRecall both give 'precision'"):
        ImageMetrics(Pixels(2, 1), metrics=[PrecisionRecall(3), PrecisionRecall(5)])
    with pytest.raises(UserError, match="no metrics"):
        ImageMetrics(Pixels(2, 1), metrics=[])
    with pytest.raises(UserError, match="needs a classifier, and Pixels is none"):
        ImageMetrics(Pixels(2, 1), metrics=[InceptionScore()]).set_reference(None)


@pytest.mark.parametrize("metrics", [DEFAULT, [FrechetDistance()]])
def test_samples_of_the_teacher_as_reference(metrics: list):
    suite, extractor = ImageMetrics(Pixels(2, 1), metrics=metrics), Pixels(2, 1)
    teacher, student = images(70, 0), images(50, 1)
    for part in teacher.split(33):
        suite.update(part)
    suite.refer_to_teacher()
    numbers = whole(suite, student)
    a, b = moments(extractor(to_uint8(student))), moments(extractor(to_uint8(teacher)))
    assert numbers["frechet_to_teacher"] == pytest.approx(frechet_distance(*a, *b), rel=1e-9)
    assert (numbers["count"], numbers["reference_count"]) == (50, 70)
    assert suite.reference_name == "teacher" and "frechet" not in numbers
    if metrics is DEFAULT:
        by_data = ImageMetrics(Pixels(2, 1))
        by_data.set_reference({"samples": teacher})
        expected = whole(by_data, student)
        assert numbers["kid_to_teacher"] == pytest.approx(expected["kid"], rel=1e-9)
        assert numbers["recall_to_teacher"] == expected["recall"]


def to_uint8(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().to(torch.uint8)


def test_combined_suites():
    fine, coarse = Pixels(4, 1), Pixels(1, 1)
    suite = CombinedMetrics(
        [ImageMetrics(fine), ImageMetrics(coarse, metrics=[FrechetDistance(), VendiScore()], prefix="mean_")]
    )
    suite.set_reference({"samples": images(80, 0)})
    numbers = whole(suite, images(60, 1))
    for part, prefix in (
        (ImageMetrics(fine), ""),
        (ImageMetrics(coarse, metrics=[FrechetDistance(), VendiScore()]), "mean_"),
    ):
        part.set_reference({"samples": images(80, 0)})
        for name, value in whole(part, images(60, 1)).items():
            assert numbers[name if name.endswith("_count") or name == "count" else prefix + name] == value
    assert suite.fingerprint() == f"{fine.fingerprint()} + {coarse.fingerprint()}"
    twice = CombinedMetrics([ImageMetrics(fine, metrics=[VendiScore()]), ImageMetrics(coarse, metrics=[VendiScore()])])
    with pytest.raises(UserError, match="'vendi'; give one of them another prefix"):
        whole(twice, images(60, 1))


@pytest.mark.parametrize("combined", [False, True])
def test_a_continued_suite_says_the_same(combined: bool):
    def make() -> ImageMetrics | CombinedMetrics:
        suite = ImageMetrics(Classifier(), metrics=ALL)
        return (
            CombinedMetrics([suite, ImageMetrics(Pixels(1, 1), [FrechetDistance()], prefix="m_")])
            if combined
            else suite
        )

    x, label = images(60, 1), torch.arange(60) % 3
    results = []
    for stop in (None, 26):
        suite = make()
        suite.set_reference({"samples": images(80, 0)})
        for start in range(0, 60, 13):
            if stop == start:
                state = {name: value.clone() for name, value in suite.partial_state().items()}
                suite = make()
                suite.set_reference({"samples": images(80, 0)})
                suite.add_partial_state(state)
            rows = slice(start, min(start + 13, 60))
            suite.update(x[rows], label[rows])
        results.append(suite.compute())
    assert results[0] == results[1]
    features = [name for name in state if name.endswith("features")]
    assert len(features) == 1 and state[features[0]].shape == (26, 4)  # once, however many metrics keep them
