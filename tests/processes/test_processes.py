"""Conversions, kernels and grids of every process."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest
import torch

from fastgen.denoisers.exact.mixtures import RingMixture
from fastgen.errors import UserError
from fastgen.processes import EDM, PREDICTION_KINDS, VP, BrownianBridge, Prediction, RectifiedFlow, TrigFlow

PROCESSES = {
    "edm": EDM(),
    "vp": VP(),
    "vp_linear": VP(1e-4, 0.02, 1000, "linear"),
    "flow": RectifiedFlow(),
    "flow_shifted": RectifiedFlow(shift=3.0),
    "trig": TrigFlow(),
    "trig_unit": TrigFlow(sigma_data=1.0),
    "bridge": BrownianBridge(variance=1.3),
}
PAIRS = list(permutations(PROCESSES, 2))


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


def times(process, count=6):
    """Times (count,) inside the process, none on a table's knot."""
    return torch.linspace(0.013, 0.987, count, dtype=torch.float64) * process.t_max


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
@pytest.mark.parametrize("via", PREDICTION_KINDS)
def test_kinds_round_trip(process, kind, via):
    t, x_t = times(process), normal(6, 2, 3)
    first = Prediction(process, x_t, t, normal(6, 2, 3, seed=1), kind)
    second = Prediction(process, x_t, t, first.as_kind(via), via)
    # The rounding error of a conversion is relative to the largest term in it, sigma / alpha at most.
    bound = 1e-12 * max(1.0, float(process.ratio(t).max()))
    for name in PREDICTION_KINDS:
        expected = first.as_kind(name)
        torch.testing.assert_close(second.as_kind(name), expected, rtol=1e-12, atol=bound * float(expected.abs().max()))


def test_true_prediction(process):
    """All kinds of the true x0 and noise agree with their definitions."""
    t, x0, noise = times(process), normal(6, 3), normal(6, 3, seed=1)
    prediction = Prediction(process, process.add_noise(x0, noise, t), t, x0, "x0")
    alpha, sigma = (c[:, None] for c in process.coefficients(t))
    alpha_dot, sigma_dot = (c[:, None] for c in process.derivatives(t))
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(prediction.noise, noise, **close)
    torch.testing.assert_close(prediction.v, alpha * noise - sigma * x0, **close)
    torch.testing.assert_close(prediction.velocity, alpha_dot * x0 + sigma_dot * noise, **close)
    torch.testing.assert_close(prediction.score, -noise / sigma, **close)
    s = 0.4 * t
    torch.testing.assert_close(process.jump(prediction, s), process.add_noise(x0, noise, s), **close)


def test_guidance_is_affine_in_every_kind(process):
    t, x_t = times(process), normal(6, 3)
    cond, uncond = (Prediction(process, x_t, t, normal(6, 3, seed=i), "x0") for i in (1, 2))
    guided = cond.guided(uncond, 2.5)
    for kind in PREDICTION_KINDS:
        expected = uncond.as_kind(kind) + 2.5 * (cond.as_kind(kind) - uncond.as_kind(kind))
        torch.testing.assert_close(guided.as_kind(kind), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stored", PREDICTION_KINDS)
def test_a_detached_prediction_has_no_graph_in_any_kind(process, stored):
    x_t, value = normal(6, 3).requires_grad_(), normal(6, 3, seed=1).requires_grad_()
    attached = Prediction(process, x_t, times(process), value, stored)
    for kind in PREDICTION_KINDS:
        assert attached.as_kind(kind).requires_grad
        alone = attached.detach().as_kind(kind)
        assert not alone.requires_grad and torch.equal(alone, attached.as_kind(kind).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_networks_say_in_half_precision_is_converted_in_single(process, dtype):
    t, x_t, value = times(process).float(), normal(6, 3).to(dtype), normal(6, 3, seed=1).to(dtype)
    for stored in PREDICTION_KINDS:
        half, single = (Prediction(process, x, t, v, stored) for x, v in ((x_t, value), (x_t.float(), value.float())))
        for kind in PREDICTION_KINDS:
            assert half.as_kind(kind).dtype == torch.float32 and torch.equal(half.as_kind(kind), single.as_kind(kind))


def test_unknown_kind():
    with pytest.raises(ValueError, match="'eps'"):
        Prediction(EDM(), normal(1, 2), torch.ones(1), normal(1, 2), "eps")


def test_narrow_inputs_are_widened():
    x_t = torch.ones(2, 3, dtype=torch.bfloat16)
    prediction = Prediction(RectifiedFlow(), x_t, torch.full((2,), 0.3, dtype=torch.float64), x_t, "velocity")
    assert prediction.x0.dtype == prediction.noise.dtype == torch.float32
    assert RectifiedFlow().add_noise(x_t, x_t, prediction.t).dtype == torch.float32


def kernel(process, s, t):
    """Scale and deviation of q(x_t | x_s), read off ``renoise``."""
    one, zero = torch.ones_like(s), torch.zeros_like(s)
    return process.renoise(one, s, t, zero), process.renoise(zero, s, t, one)


def test_renoise_keeps_the_marginal(process):
    t = times(process)
    s = 0.6 * t
    scale, deviation = kernel(process, s, t)
    torch.testing.assert_close(scale * process.alpha(s), process.alpha(t), rtol=1e-13, atol=0)
    torch.testing.assert_close((scale * process.sigma(s)) ** 2 + deviation**2, process.sigma(t) ** 2)


def test_renoise_composes(process):
    t = times(process)
    s, u = 0.3 * t, 0.7 * t
    (scale_su, dev_su), (scale_ut, dev_ut), (scale_st, dev_st) = (
        kernel(process, a, b) for a, b in ((s, u), (u, t), (s, t))
    )
    torch.testing.assert_close(scale_su * scale_ut, scale_st)
    torch.testing.assert_close((scale_ut * dev_su) ** 2 + dev_ut**2, dev_st**2)


def test_renoise_to_the_same_time_is_the_identity(process):
    t, x = times(process), normal(6, 3)
    torch.testing.assert_close(process.renoise(x, t, t, normal(6, 3, seed=1)), x, rtol=0, atol=1e-6)


def test_derivatives(process):
    t = times(process)
    h = 1e-6 * process.t_max
    for index in (0, 1):
        central = (process.coefficients(t + h)[index] - process.coefficients(t - h)[index]) / (2 * h)
        torch.testing.assert_close(process.derivatives(t)[index], central, rtol=1e-6, atol=1e-8)


def test_time_inverts_ratio(process):
    t = times(process, 50)
    torch.testing.assert_close(process.time(process.ratio(t)), t, rtol=1e-10, atol=1e-10)
    assert bool((process.ratio(t).diff() > 0).all())


@pytest.mark.parametrize("process", [RectifiedFlow(), TrigFlow()], ids=["flow", "trig"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pure_noise_end(process, dtype):
    """In fp32 pi/2 lies beyond the right angle; the ratio must not turn negative there."""
    t = torch.tensor([process.t_max], dtype=dtype)
    assert float(process.ratio(t)) > 1e6
    assert float(process.time(process.ratio(t))) == pytest.approx(process.t_max)


def test_levels_that_no_network_knows_count_as_the_nearest(process):
    beyond = torch.tensor([process.t_clean, process.t_max, 1.5 * process.t_max], dtype=torch.float64)
    clean, *noisy = process.fraction(beyond).tolist()
    assert 0.0 <= clean < 2e-3 and noisy == pytest.approx([1.0, 1.0])


def test_a_sampler_begins_at_noise_of_its_level(process):
    t, noise = times(process), normal(6, 3)
    torch.testing.assert_close(process.start(noise, t), process.coefficients(t)[1][:, None] * noise)


def test_clean_end(process):
    t = torch.tensor([process.t_clean], dtype=torch.float64)
    alpha, sigma = process.coefficients(t)
    assert float(alpha) == 1.0 and float(sigma) == 0.0


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_warp_there_and_back(first, second):
    first, second = PROCESSES[first], PROCESSES[second]
    t = first.time(torch.tensor([0.05, 0.5, 2.0, 8.0], dtype=torch.float64))
    x_t = normal(4, 3)
    warped, s = first.warp(x_t, t, second)
    back, again = second.warp(warped, s, first)
    torch.testing.assert_close(second.ratio(s), first.ratio(t))
    torch.testing.assert_close(again, t)
    torch.testing.assert_close(back, x_t)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_exact_denoiser_is_the_same_through_a_warp(first, second):
    first, second = PROCESSES[first], PROCESSES[second]
    t = first.time(torch.tensor([0.05, 0.5, 2.0, 8.0], dtype=torch.float64))
    x_t = first.add_noise(normal(4, 2), normal(4, 2, seed=1), t)
    torch.testing.assert_close(RingMixture(second)(*first.warp(x_t, t, second)).x0, RingMixture(first)(x_t, t).x0)


def test_warp_of_pure_noise():
    one = torch.ones(1, dtype=torch.float64)
    x, s = RectifiedFlow().warp(normal(1, 3), one, TrigFlow(sigma_data=0.5))
    assert float(s) == pytest.approx(math.pi / 2)
    torch.testing.assert_close(x, 0.5 * normal(1, 3))


def test_vp_table_is_that_of_diffusers():
    from diffusers import DDPMScheduler

    for schedule, start, end in (("scaled_linear", 0.00085, 0.012), ("linear", 1e-4, 0.02)):
        reference = DDPMScheduler(beta_start=start, beta_end=end, beta_schedule=schedule)
        process = VP(start, end, schedule=schedule)
        alpha = process.alpha(torch.arange(1000, dtype=torch.float64))
        torch.testing.assert_close(alpha.square(), reference.alphas_cumprod.double(), rtol=0, atol=1e-6)
        same = VP.from_betas(reference.betas).alpha(torch.arange(1000, dtype=torch.float64))
        torch.testing.assert_close(same, alpha, rtol=0, atol=1e-6)


def test_vp_starts_from_pure_noise():
    process = VP()
    noise = normal(2, 3)
    start = process.start(noise, torch.tensor([999.0, 500.0], dtype=torch.float64))
    torch.testing.assert_close(start[0], noise[0])
    torch.testing.assert_close(start[1], noise[1] * process.sigma(torch.tensor(500.0, dtype=torch.float64)))


def test_grids():
    assert VP().grid(4) == [999.0, 749.0, 499.0, 249.0]
    assert RectifiedFlow().grid(4) == [1.0, 0.75, 0.5, 0.25]
    assert RectifiedFlow(shift=3.0).grid(4) == pytest.approx([1.0, 0.9, 0.75, 0.5])
    assert TrigFlow().grid(2) == pytest.approx([math.pi / 2, math.pi / 4])
    sigmas = EDM().grid(18)
    assert sigmas[0] == pytest.approx(80.0) and sigmas[-1] == pytest.approx(0.002)
    # Second level of the 18-step schedule of Karras et al. 2022, eq. 5.
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    assert sigmas[1] == pytest.approx((high + (low - high) / 17) ** 7)
    assert EDM().position(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == pytest.approx([0.002, 80.0])


def test_no_call_of_a_student_is_spent_on_clean_samples():
    """Two calls from 20 are at 20 and 0.82, the middle of the rho grid down to sigma_min, not at 20 and sigma_min."""
    middle = (0.5 * (20.0 ** (1 / 7) + 0.002 ** (1 / 7))) ** 7
    assert EDM().student_grid(2, 20.0) == pytest.approx([20.0, middle])
    assert EDM().student_grid(4) == pytest.approx(EDM().grid(5)[:4])
    assert EDM().student_grid(1) == pytest.approx([80.0])
    for process in (VP(), RectifiedFlow(), TrigFlow()):
        assert process.student_grid(4) == process.grid(4)


def test_grid_begins_at_its_start_and_decreases(process):
    start = 0.6 * process.t_max
    grid = process.grid(5, start)
    assert grid[0] == pytest.approx(start)
    assert len(grid) == 5 and all(a > b > process.t_clean for a, b in pairwise(grid))
    assert process.grid(1) == [pytest.approx(process.t_max)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDM(sigma_min=1.0, sigma_max=0.5), "sigma_min must be at most sigma_max"),
        (lambda: VP(schedule="cosine"), "'cosine'"),
        (lambda: VP.from_betas([0.1, 1.5]), "betas"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()
