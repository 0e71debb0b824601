"""Distances of clips to a linear-Gaussian process, by hand and of samples that are right or wrong in one way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastgen.denoisers import LinearGaussianClips, RingMixture
from fastgen.errors import UserError
from fastgen.metrics import ClipMetrics
from fastgen.metrics.laws.clips import bures, transition_error
from fastgen.processes import EDM


def numbers(clips: Tensor, condition: dict[str, Tensor], **options: float) -> dict[str, float]:
    suite = ClipMetrics(lambda: LinearGaussianClips(EDM(), frames=4, features=2, num_classes=2, **options))
    suite.observe(clips, condition, range(len(clips)))
    return suite.compute()


def drawn(count: int = 20000) -> tuple[LinearGaussianClips, Tensor, Tensor]:
    law = LinearGaussianClips(EDM(), frames=4, features=2, num_classes=2)
    label = torch.arange(count) % 2
    return law, label, law.sample(count, torch.Generator().manual_seed(3), label, torch.float64)


def test_bures_by_hand():
    """Of diagonal covariances it is the sum of squared differences of the deviations."""
    one, other = torch.diag(torch.tensor([4.0, 1.0]).double()), torch.diag(torch.tensor([1.0, 9.0]).double())
    assert bures(one, other) == pytest.approx(1.0 + 4.0, rel=1e-12) and bures(one, one) == pytest.approx(0, abs=1e-9)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    assert bures(turn @ one @ turn.T, turn @ other @ turn.T) == pytest.approx(5.0)


def test_the_transition_of_the_law_is_the_one_that_it_was_made_of():
    law = LinearGaussianClips(EDM(), frames=3, features=2, correlation=0.8, angle=0.3)
    rotation = [[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]]
    turn = 0.8 * torch.tensor(rotation, dtype=torch.float64)
    blocks = law.covariance.reshape(3, 2, 3, 2)
    torch.testing.assert_close(blocks[1, :, 0], turn)  # std 1: E z_1 z_0^T = A
    still = LinearGaussianClips(EDM(), frames=3, features=2, correlation=0.8, angle=0.0).covariance
    wrong = (0.8 * torch.eye(2).double() - turn).norm() / turn.norm()
    assert transition_error(still, law.covariance, 2) == pytest.approx(float(wrong), rel=1e-9)


def test_samples_of_the_law_are_at_the_floor():
    _, label, x = drawn()
    found = numbers(x, {"label": label})
    assert found["clip_wasserstein2"] < 2 * found["clip_wasserstein2_floor"] < 0.04
    assert found["narrowest"] > 0.93 and found["transition_error"] < 0.03
    assert found["last_frame_wasserstein2"] < 0.03


def test_what_is_wrong_shows():
    law, label, x = drawn()
    mean = law.mean_of({"label": label}, 4, x)
    assert numbers(x + 0.5, {"label": label})["clip_wasserstein2"] == pytest.approx(0.5, abs=0.02)
    shifted = x + torch.where(label[:, None, None] == 0, 0.5, -0.5)  # errors of the classes do not cancel
    assert numbers(shifted, {"label": label})["clip_wasserstein2"] == pytest.approx(0.5, abs=0.02)
    half = numbers(mean + 0.5 * (x - mean), {"label": label})
    assert half["clip_wasserstein2"] == pytest.approx(0.5, abs=0.02)
    assert half["narrowest"] == pytest.approx(0.25, abs=0.02)
    late = x.clone()
    late[:, 3] = mean[:, 3] + 2.0 * (x - mean)[:, 3]
    found = numbers(late, {"label": label})
    assert found["last_frame_wasserstein2"] == pytest.approx(1.0, abs=0.03)
    shuffled = x[:, torch.tensor([0, 2, 1, 3])]
    assert numbers(shuffled, {"label": label})["transition_error"] > 0.3


def test_what_drives_the_motion_is_part_of_what_was_asked():
    law = LinearGaussianClips(EDM(), frames=4, features=2, num_classes=2, drive=1)
    label = torch.arange(5000) % 2
    drive = torch.randn(5000, 4, 1, generator=torch.Generator().manual_seed(0))
    x = law.sample(5000, torch.Generator().manual_seed(3), label) + law.response(drive.double())
    asked = {"label": label, "drive": drive}
    assert numbers(x, asked, drive=1)["clip_wasserstein2"] < 0.05
    assert numbers(x, {"label": label}, drive=1)["clip_wasserstein2"] > 0.1


def test_a_collapsed_sampler_gets_numbers():
    law, label, x = drawn(500)
    still = law.mean_of({"label": label}, 4, x)
    found = numbers(still, {"label": label})
    assert found["narrowest"] == pytest.approx(0.0, abs=1e-9) and found["transition_error"] == pytest.approx(1.0)
    assert found["clip_wasserstein2"] == pytest.approx(1.0, abs=0.01)


def test_what_is_no_clip_is_refused():
    with pytest.raises(UserError, match="not of RingMixture"):
        ClipMetrics(lambda: RingMixture(EDM()))
    with pytest.raises(UserError, match="ClipMetrics expect samples of shape"):
        numbers(torch.zeros(3, 4, 3), {"label": torch.zeros(3).long()})
