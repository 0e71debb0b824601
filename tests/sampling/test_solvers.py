import math
from collections.abc import Iterable
from itertools import pairwise

import oracles
import pytest
import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.exact.gaussians import GaussianDenoiser, MixtureDenoiser
from fastgen.denoisers.wrappers.guided import conditional_pair, guided
from fastgen.errors import UserError
from fastgen.processes import EDM, VP, Prediction, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.solvers import DDIM, DPMSolverPP, Euler, Heun, Solver, UniPC
from fastgen.sampling.solvers.multistep import Multistep

MEAN = torch.tensor([0.4, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.8, 0.3], [0.3, 0.4]], dtype=torch.float64)
PROCESSES: dict[str, Process] = {
    "edm": EDM(),
    "vp": VP(),
    "vp-linear": VP(1e-4, 0.02, schedule="linear"),
    "flow": RectifiedFlow(),
    "flow-shifted": RectifiedFlow(shift=3.0),
    "trig": TrigFlow(),
    "trig-1": TrigFlow(sigma_data=1.0),
}
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def noises(count: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def coefficients(process: Process, t: float) -> tuple[float, float]:
    alpha, sigma = process.coefficients(torch.tensor([t], dtype=torch.float64))
    return alpha.item(), sigma.item()


def orders(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


def error_at_data(solver: type[Solver], process: Process, steps: int) -> float:
    teacher, noise = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    start = process.start(noise, torch.full((len(noise),), process.t_max, dtype=torch.float64))
    exact = oracles.flow_map(MEAN, COVARIANCE, start, *coefficients(process, process.t_max))
    return (solver(steps).solve(teacher, noise, {}) - exact).abs().max().item()


def error_between(solver: type[Solver], process: Process, high: float, low: float, steps: int) -> float:
    """The error of equal steps between noisy times, against x_s = alpha_s m + S_s^1/2 S_t^-1/2 (x_t - alpha_t m)."""
    teacher, x = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    (alpha, sigma), (alpha_s, sigma_s) = coefficients(process, high), coefficients(process, low)
    values, vectors = torch.linalg.eigh(COVARIANCE)
    scale = ((alpha_s**2 * values + sigma_s**2) / (alpha**2 * values + sigma**2)).sqrt()
    exact = alpha_s * MEAN + (((x - alpha * MEAN) @ vectors) * scale) @ vectors.T
    for i in range(steps):
        t, s = (torch.full((len(x),), high + (low - high) * j / steps, dtype=torch.float64) for j in (i, i + 1))
        x = solver(steps).step(teacher, x, t, s, {})
    return (x - exact).abs().max().item()


@by_process
def test_euler_is_of_first_order(process: Process):
    errors = [error_at_data(Euler, process, steps) for steps in (40, 80, 160)]
    assert all(0.85 < order < 1.1 for order in orders(errors)), errors


@pytest.mark.parametrize("name", [name for name in PROCESSES if not name.startswith("vp")])
def test_heun_is_of_second_order(name: str):
    errors = [error_at_data(Heun, PROCESSES[name], steps) for steps in (40, 80, 160)]
    assert all(1.9 < order < 2.2 for order in orders(errors)), errors


@by_process
@pytest.mark.parametrize(("solver", "order"), [(Euler, 1.0), (Heun, 2.0)])
def test_order_between_two_noisy_times(process: Process, solver: type[Solver], order: float):
    high, low = (1.5, 0.3) if isinstance(process, EDM) else (0.8 * process.t_max, 0.2 * process.t_max)
    errors = [error_between(solver, process, high, low, steps) for steps in (16, 32, 64)]
    assert all(abs(measured - order) < 0.15 for measured in orders(errors)), errors


@pytest.mark.parametrize("name", ["vp", "vp-linear"])
def test_heun_halves_the_error_of_euler_on_vp(name: str):
    """Its grid is even in steps, so the last, uncorrected step to data starts at sigma ~ steps^-1/2: order one."""
    for steps in (20, 80):
        assert error_at_data(Heun, PROCESSES[name], steps) < 0.6 * error_at_data(Euler, PROCESSES[name], steps)


@by_process
@pytest.mark.parametrize("solver", [Euler, Heun, DDIM, DPMSolverPP, UniPC])
def test_one_step_is_the_prediction_at_the_start(process: Process, solver: type[Solver]):
    teacher, noise = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    t = torch.full((len(noise),), process.t_max, dtype=torch.float64)
    expected = teacher(process.start(noise, t), t).x0
    torch.testing.assert_close(solver().solve(teacher, noise, {}, steps=1), expected, rtol=1e-12, atol=1e-12)


def test_evaluations_are_the_calls_that_are_made():
    class Counting(GaussianDenoiser):
        calls = 0

        def predict(self, *args, **kwargs):
            self.calls += 1
            return super().predict(*args, **kwargs)

    for solver in (Euler(), Heun(), DDIM(), DDIM(eta=1.0), DPMSolverPP(), UniPC()):
        for steps in (1, 5):
            teacher = Counting(EDM(), MEAN, COVARIANCE)
            solver.solve(teacher, noises(), {}, steps, Draws(0, range(32)))
            assert teacher.calls == solver.evaluations(steps)


@by_process
def test_heun_steps_to_several_times_ask_no_network_at_the_clean_end(process: Process):
    """A batch of consistency distillation steps to many times at once; a network may be NaN where there is no noise."""

    class NotClean(GaussianDenoiser):
        def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
            clean = (t <= process.t_clean)[:, None]
            return super().predict(x_t, t, condition, s).masked_fill(clean, float("nan"))

    teacher, x = NotClean(process, MEAN, COVARIANCE), noises(3)
    t = torch.full((3,), 0.5 * process.t_max, dtype=torch.float64)
    s = torch.tensor([0.3 * process.t_max, process.t_clean, 0.1 * process.t_max], dtype=torch.float64)
    together = Heun().step(teacher, x, t, s, {})
    alone = torch.cat([Heun().step(teacher, x[[i]], t[[i]], s[[i]], {}) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[1], teacher(x, t).x0[1], rtol=1e-12, atol=1e-12)


def labelled(process: Process) -> MixtureDenoiser:
    return MixtureDenoiser(process, [[1.0, 0.0], [-1.0, 0.5]], [0.5, 0.2], classes=[0, 1])


def guided_by_hand(process: Process, x: Tensor, t: float, label: Tensor, scale: float) -> Tensor:
    teacher = labelled(process)
    means, stds, weights = teacher.means, teacher.variances.sqrt(), teacher.mixing
    alpha, sigma = process.coefficients(torch.full((len(x),), t, dtype=torch.float64))
    free = oracles.mixture_x0(means, stds, weights, x, alpha, sigma)
    bound = torch.cat(
        [
            oracles.mixture_x0(means[[y]], stds[[y]], weights[[y]], x[[i]], alpha[[i]], sigma[[i]])
            for i, y in enumerate(label.tolist())
        ]
    )
    return free + scale * (bound - free)


@by_process
def test_guidance_is_affine_between_the_two_predictions(process: Process):
    teacher, x, label = labelled(process), noises(6), torch.tensor([0, 1, 0, 0, 1, 1])
    time = 0.4 * process.t_max
    t = torch.full((6,), time, dtype=torch.float64)
    for scale in (1.0, 0.0, 2.5):
        expected = guided_by_hand(process, x, time, label, scale)
        torch.testing.assert_close(guided(teacher, x, t, {"label": label}, scale).x0, expected, rtol=1e-9, atol=1e-11)
    cond, uncond = conditional_pair(teacher, x, t, {"label": label})
    torch.testing.assert_close(cond.x0, guided_by_hand(process, x, time, label, 1.0), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(uncond.x0, guided_by_hand(process, x, time, label, 0.0), rtol=1e-9, atol=1e-11)


def test_a_guided_solver_follows_the_guided_prediction():
    """Three guided Euler steps on rectified flow, x_s = x_t + (s - t) (x_t - mu) / t, by hand."""
    process, label = RectifiedFlow(), torch.tensor([0, 1, 0, 0, 1, 1])
    noise = noises(6)
    x = noise
    for t, s in ((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0)):
        x = x + (s - t) * (x - guided_by_hand(process, x, t, label, 2.5)) / t
    result = Euler(3, guidance=2.5).solve(labelled(process), noise, {"label": label})
    torch.testing.assert_close(result, x, rtol=1e-9, atol=1e-11)


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="steps must be an integer from 1"):
        Euler(0)


# ------------------------------------------------------------------ several steps remembered


def last_of(states: Iterable[Tensor]) -> Tensor:
    *_, last = states
    return last


def exact_map(process: Process, x: Tensor, high: float, low: float) -> Tensor:
    (alpha, sigma), (alpha_s, sigma_s) = coefficients(process, high), coefficients(process, low)
    values, vectors = torch.linalg.eigh(COVARIANCE)
    scale = ((alpha_s**2 * values + sigma_s**2) / (alpha**2 * values + sigma**2)).sqrt()
    return alpha_s * MEAN + (((x - alpha * MEAN) @ vectors) * scale) @ vectors.T


@by_process
@pytest.mark.parametrize(("solver", "order"), [(DPMSolverPP(), 2.0), (UniPC(), 3.0)], ids=["dpm", "unipc"])
def test_order_of_multistep_solvers_between_two_noisy_times(process: Process, solver: Multistep, order: float):
    teacher, x = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    high, low = (1.5, 0.3) if isinstance(process, EDM) else (0.8 * process.t_max, 0.2 * process.t_max)
    errors = []
    for steps in (32, 64, 128):
        ends = process.ratio(torch.tensor([high, low], dtype=torch.float64)).log()
        levels = ends[0] + (ends[1] - ends[0]) * torch.arange(steps + 1, dtype=torch.float64) / steps
        times = [process.time(level.exp()).expand(len(x)) for level in levels]
        errors.append(
            (last_of(solver.path(teacher, x, times, {})) - exact_map(process, x, high, low)).abs().max().item()
        )
    assert all(abs(measured - order) < 0.4 for measured in orders(errors)), errors


def test_dpm_solver_by_hand():
    """EDM, levels 4, 2, 1: h is log 2 in both steps, so D = 1.5 D_t - 0.5 D_before."""
    process = EDM()
    teacher, x = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    times = [torch.full((len(x),), level, dtype=torch.float64) for level in (4.0, 2.0, 1.0)]
    first = teacher(x, times[0]).x0
    middle = 0.5 * x + 0.5 * first
    second = teacher(middle, times[1]).x0
    expected = 0.5 * middle + 0.5 * (1.5 * second - 0.5 * first)
    torch.testing.assert_close(last_of(DPMSolverPP().path(teacher, x, times, {})), expected, rtol=1e-12, atol=1e-12)


def trained_noise(teacher: GaussianDenoiser, x: Tensor, t: float) -> Tensor:
    return teacher(x, torch.full((len(x),), t, dtype=torch.float64)).noise


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_multistep_solvers_are_those_of_diffusers_on_vp(name: str, steps: int):
    """At whole steps, where diffusers has levels too."""
    import diffusers

    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = getattr(diffusers, name)(**options, timestep_spacing="linspace", final_sigmas_type="zero")
    scheduler.set_timesteps(steps)
    grid = [float(t) for t in scheduler.timesteps]
    process = VP()
    teacher, x = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    theirs = x.clone()
    for t in scheduler.timesteps:
        theirs = scheduler.step(trained_noise(teacher, theirs, float(t)), t, theirs).prev_sample
    times = [torch.full((len(x),), t, dtype=torch.float64) for t in [*grid, process.t_clean]]
    solver = DPMSolverPP() if name.startswith("DPM") else UniPC()
    torch.testing.assert_close(last_of(solver.path(teacher, x, times, {})), theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_multistep_solvers_are_those_of_diffusers_on_flows(name: str):
    import diffusers

    scheduler = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    scheduler.set_timesteps(6)
    process = RectifiedFlow()
    teacher, x = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    theirs, sigmas = x.clone(), scheduler.sigmas.double()
    for i, t in enumerate(scheduler.timesteps):
        velocity = teacher(theirs, sigmas[i].expand(len(x))).velocity
        theirs = scheduler.step(velocity, t, theirs).prev_sample
    times = [sigma.expand(len(x)) for sigma in sigmas]
    solver = DPMSolverPP() if name.startswith("DPM") else UniPC()
    torch.testing.assert_close(last_of(solver.path(teacher, x, times, {})), theirs, rtol=2e-4, atol=2e-4)


def test_a_flow_begins_at_noise_alone():
    """There log(alpha / sigma) is infinite; the first difference has no weight, and nothing is NaN."""
    process = RectifiedFlow()
    teacher, noise = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    for solver in (DPMSolverPP(), UniPC()):
        assert solver.solve(teacher, noise, {}, 5).isfinite().all()
    times = [torch.full((len(noise),), t, dtype=torch.float64) for t in (1.0, 0.6, 0.2)]
    torch.testing.assert_close(
        last_of(DPMSolverPP().path(teacher, noise, times, {})),
        Euler().step(teacher, Euler().step(teacher, noise, times[0], times[1], {}), times[1], times[2], {}),
        rtol=1e-12,
        atol=1e-12,
    )


# ------------------------------------------------------------------ DDIM


@by_process
def test_ddim_without_noise_is_euler(process: Process):
    teacher, noise = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    torch.testing.assert_close(DDIM(7).solve(teacher, noise, {}), Euler(7).solve(teacher, noise, {}), rtol=0, atol=0)


@by_process
def test_ddim_of_one_datum_has_the_marginals_of_the_process(process: Process):
    """With the true x0 every state is alpha x0 + sigma z: its own deviation and the fresh noise's add up to sigma."""
    x0 = torch.full((20_000, 1), 0.3, dtype=torch.float64)
    high, low = (2.0, 0.5) if isinstance(process, EDM) else (0.8 * process.t_max, 0.3 * process.t_max)
    t, s = (torch.full((len(x0),), time, dtype=torch.float64) for time in (high, low))
    draws = Draws(0, range(len(x0)))
    x_t = process.add_noise(x0, draws.normal("a", (1,), torch.float64), t)
    for eta in (0.5, 1.0):
        solver = DDIM(eta=eta)
        moved = solver.noisy_step(Prediction(process, x_t, t, x0, "x0"), s, draws.normal("b", (1,), torch.float64))
        residual = (moved - process.alpha(s)[:, None] * x0) / process.sigma(s)[:, None]
        assert abs(residual.std().item() - 1.0) < 0.02
        noise = (x_t - process.alpha(t)[:, None] * x0) / process.sigma(t)[:, None]
        # What is kept of the old noise: sqrt(1 - eta^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)).
        shrink = (process.ratio(s) / process.ratio(t))[0].item()
        kept = (residual * noise).mean().item()
        assert abs(kept - math.sqrt(1.0 - eta**2 * (1.0 - shrink**2))) < 0.02


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_that_of_diffusers(eta: float):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(5)
    process, draws, solver = VP(), Draws(0, range(32)), DDIM(eta=eta)
    teacher, theirs = GaussianDenoiser(process, MEAN, COVARIANCE), noises()
    ours = theirs
    ends = [*scheduler.timesteps[1:].tolist(), -1]
    for i, (t, end) in enumerate(zip(scheduler.timesteps.tolist(), ends, strict=True)):
        fresh = draws.normal(f"{i}", (2,), torch.float64)
        theirs = scheduler.step(trained_noise(teacher, theirs, t), t, theirs, eta=eta, variance_noise=fresh).prev_sample
        time, s = (torch.full((32,), float(value), dtype=torch.float64) for value in (t, end))
        ours = solver.noisy_step(teacher(ours, time), s, fresh)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_noise_of_ddim_belongs_to_the_samples():
    teacher, noise, solver = GaussianDenoiser(EDM(), MEAN, COVARIANCE), noises(), DDIM(6, eta=1.0)
    together = solver.solve(teacher, noise, {}, draws=Draws(0, range(32)))
    alone = solver.solve(teacher, noise[7:9], {}, draws=Draws(0, range(7, 9)))
    torch.testing.assert_close(together[7:9], alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="DDIM draws fresh noise"):
        solver.solve(teacher, noise, {})
    t = torch.full((32,), 1.0, dtype=torch.float64)
    with pytest.raises(UserError, match="whole samples only"):
        solver.step(teacher, noise, t, 0.5 * t, {})
