"""EDM preconditioning on every process."""

from __future__ import annotations

import math

import pytest
import torch

from fastgen.denoisers.networks.preconditioning import edm_preconditioning, noise_angle, time_features
from fastgen.processes import EDM, VP, RectifiedFlow, TrigFlow

PROCESSES = [EDM(), VP(), RectifiedFlow(), TrigFlow()]


def test_table_1_of_karras():
    sigma, data = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64), 0.5
    c = edm_preconditioning(EDM(), sigma, data)
    torch.testing.assert_close(c.c_skip, data**2 / (sigma**2 + data**2))
    torch.testing.assert_close(c.c_out, sigma * data / (sigma**2 + data**2).sqrt())
    torch.testing.assert_close(c.c_in, 1 / (sigma**2 + data**2).sqrt())
    torch.testing.assert_close(c.c_noise, sigma.log() / 4)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_other_processes_see_the_same_network(process):
    """x_t of any process and the same sample warped to EDM give the same network input and the same x0."""
    t = process.time(torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64))
    x_t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edm_x, sigma = process.warp(x_t, t, EDM())
    own, edm = edm_preconditioning(process, t, 0.5), edm_preconditioning(EDM(), sigma, 0.5)
    torch.testing.assert_close(own.network_input(x_t), edm.network_input(edm_x))
    torch.testing.assert_close(own.c_noise, edm.c_noise)
    torch.testing.assert_close(own.x0(x_t, x_t.sin()), edm.x0(edm_x, x_t.sin()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_finite_up_to_both_ends(process, dtype):
    t = torch.tensor([process.t_clean, process.t_max], dtype=dtype)
    c = edm_preconditioning(process, t, 0.5)
    for value in (c.c_skip, c.c_out, c.c_in, c.c_noise, noise_angle(process, t)):
        assert value.dtype == dtype and bool(value.isfinite().all())
    assert float(c.c_skip[0]) == 1.0 and float(c.c_out[0]) == 0.0
    assert float(noise_angle(process, t)[0]) == 0.0


def test_pure_noise():
    c = edm_preconditioning(RectifiedFlow(), torch.ones(1), 0.5)
    assert (float(c.c_skip), float(c.c_out), float(c.c_in)) == (0.0, 0.5, 1.0)
    assert float(noise_angle(RectifiedFlow(), torch.ones(1))) == pytest.approx(math.pi / 2)


def test_time_features():
    features = time_features(torch.tensor([0.0, 1.0], dtype=torch.float64), 6)
    assert features.shape == (2, 12)
    assert features[0].tolist() == [0.0] * 6 + [1.0] * 6
    expected = [math.sin(2.0**k) for k in range(-1, 5)]
    assert features[1, :6].tolist() == pytest.approx(expected)
