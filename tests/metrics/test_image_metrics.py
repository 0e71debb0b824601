"""Extractors, the shipped classifier and the suite of image metrics on real digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from feature_space import Space

from fastgen.data.digits import Digits, load_digits_split
from fastgen.errors import UserError
from fastgen.metrics import ImageMetrics
from fastgen.metrics.extractors import classifier
from fastgen.metrics.extractors.classifier import SHIPPED_SHA256, DigitsClassifier
from fastgen.metrics.extractors.toy_features import Pixels, RandomConvolutions
from fastgen.metrics.samples.accuracy import ClassAccuracy
from fastgen.pictures.pixels import to_uint8
from fastgen.storage.files import ASSETS, sha256


@pytest.fixture(scope="module")
def digits() -> Digits:
    torch.set_num_threads(1)
    return Digits()


@pytest.fixture(scope="module")
def suite(digits: Digits) -> ImageMetrics:
    suite = ImageMetrics(DigitsClassifier())
    suite.set_reference(digits.reference())
    return suite


def measure(suite: ImageMetrics, x0: torch.Tensor, label: torch.Tensor | None) -> dict[str, float]:
    suite.reset()
    suite.update(x0, label)
    return suite.compute()


def test_to_uint8() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 1.7, -3.0, 0.5])
    assert to_uint8(x).tolist() == [0, 128, 255, 255, 0, 191]
    assert to_uint8(to_uint8(x)).tolist() == to_uint8(x).tolist()


def test_shipped_classifier(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sha256(ASSETS / "digits_classifier.safetensors") == SHIPPED_SHA256
    extractor, held_out = DigitsClassifier(), load_digits_split()[1]
    features = extractor(to_uint8(held_out.x0))
    assert features.shape == (360, 64)
    assert (extractor.logits(features).argmax(1) == held_out.label).double().mean() >= 0.98
    assert extractor.fingerprint().startswith("digits_classifier/8x8grey/sha256:")
    monkeypatch.setattr(classifier, "SHIPPED_SHA256", "0" * 64)
    with pytest.raises(UserError, match="sha256"):
        DigitsClassifier().network  # noqa: B018


def test_classifier_names_images_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8x8"):
        DigitsClassifier()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        DigitsClassifier()(torch.zeros(2, 1, 8, 8))


def test_real_images_are_at_the_floor(suite: ImageMetrics, digits: Digits) -> None:
    held_out = load_digits_split()[1]
    numbers = measure(suite, held_out.x0, held_out.label)
    assert 0.8 < numbers["frechet_over_floor"] < 1.25
    assert numbers["accuracy"] >= 0.98 and abs(numbers["kid"]) < 0.05
    assert numbers["precision"] > 0.85 and numbers["recall"] > 0.85
    assert (numbers["count"], numbers["reference_count"]) == (360, 1437)


def test_faults_are_seen_where_they_belong(suite: ImageMetrics, digits: Digits) -> None:
    train = digits.sources[0]
    copies = measure(suite, train.x0, train.label)
    assert copies["frechet"] < 1e-6 and copies["frechet_over_floor"] < 0.8
    one_each = measure(suite, train.x0[:10].repeat(50, 1, 1, 1), train.label[:10].repeat(50))
    assert one_each["accuracy"] == 1.0 and one_each["precision"] == 1.0
    assert one_each["recall"] < 0.05 and one_each["frechet_over_floor"] > 5
    g = torch.Generator().manual_seed(0)
    noisy = measure(suite, train.x0 + 0.4 * torch.randn(train.x0.shape, generator=g), train.label)
    assert noisy["kid"] > 0.1 and noisy["frechet"] > 1
    missing = measure(suite, train.x0[train.label != 3], None)
    assert "accuracy" not in missing and missing["frechet"] > 0.2


def test_batches_do_not_matter(suite: ImageMetrics, digits: Digits) -> None:
    held_out = load_digits_split()[1]
    whole = measure(suite, held_out.x0, held_out.label)
    suite.reset()
    for x0, label in zip(held_out.x0.split(77), held_out.label.split(77), strict=True):
        suite.update(x0, label)
    assert suite.compute() == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_nothing_for_a_checkpoint_and_inference_mode_is_harmless(suite: ImageMetrics, digits: Digits) -> None:
    held_out = load_digits_split()[1]
    with torch.inference_mode():
        suite.reset()
        suite.update(held_out.x0[:50], held_out.label[:50])
    suite.update(held_out.x0[50:], held_out.label[50:])
    assert suite.compute()["count"] == 360
    assert all(metric.state_dict() == {} for metric in suite.metrics().values())


def test_pixels_and_missing_reference() -> None:
    images = torch.randint(256, (30, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    suite = ImageMetrics(Pixels(size=2))
    with pytest.raises(UserError, match="no real images"):
        suite.set_reference(None)
    suite.set_reference({"samples": images})
    numbers = measure(suite, images, None)
    assert numbers["frechet"] == pytest.approx(0, abs=1e-7) and numbers["recall"] == 1.0
    torch.testing.assert_close(Pixels(1)(images), images.float().mean((2, 3)) / 255)
    with pytest.raises(UserError, match="channels"):
        Pixels(size=2, channels=1)(images)


def test_random_convolutions_are_the_same_everywhere_and_labelled() -> None:
    images = torch.randint(256, (9, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.manual_seed(1)
    extractor = RandomConvolutions(width=16)
    features = extractor(images)
    torch.manual_seed(2)
    torch.testing.assert_close(RandomConvolutions(width=16)(images), features, rtol=0, atol=0)
    maps = images.double() / 127.5 - 1
    for number, weight in enumerate(extractor.network.double().state_dict().values()):
        maps = torch.nn.functional.conv2d(maps, weight, stride=1 + (number > 0), padding=1).relu()
    assert maps.shape == (9, 16, 4, 4) and features.shape == (9, extractor.num_features)
    torch.testing.assert_close(features[:, :16].double(), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features[:, 16:].double(), maps.std((2, 3), correction=0), rtol=1e-4, atol=1e-5)
    assert {kind().fingerprint()[:9] for kind in (RandomConvolutions, Pixels)} == {"plumbing_"}
    with pytest.raises(UserError, match="'channels'"):
        RandomConvolutions(channels=1)(images)


def test_accuracy() -> None:
    metric = ClassAccuracy().build(Space(2, lambda logits: logits))
    metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 0]))
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
