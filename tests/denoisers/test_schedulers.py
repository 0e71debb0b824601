"""Processes and grids read from a scheduler's configuration, against the schedulers themselves."""

from __future__ import annotations

import math

import pytest
import torch

from fastgen.denoisers.diffusers.schedulers import PipelineFlow, PipelineVP, flow_from_scheduler, zero_terminal
from fastgen.errors import UserError
from fastgen.processes import VP

SDXL = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 4, 7, 50])
def test_vp_grid_and_start_are_those_of_the_euler_scheduler(spacing: str, steps: int):
    from diffusers import EulerDiscreteScheduler

    if (spacing, steps) == ("linspace", 1):
        pytest.skip("diffusers would call the network at step 0")
    scheduler = EulerDiscreteScheduler(**SDXL, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    process = PipelineVP.from_scheduler(scheduler.config, "test")
    times = torch.tensor(process.solver_grid(steps), dtype=torch.float64)
    torch.testing.assert_close(times.float(), scheduler.timesteps, rtol=1e-6, atol=1e-4)
    if spacing != "linspace":  # between steps, diffusers interpolates the level and we its logarithm
        torch.testing.assert_close(process.ratio(times).float(), scheduler.sigmas[:-1], rtol=2e-5, atol=0)
    noise = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    theirs = scheduler.scale_model_input(noise * scheduler.init_noise_sigma, scheduler.timesteps[0])
    ours = process.solver_start(noise, times[:1])
    # With trailing steps diffusers starts with variance s^2 / (s^2 + 1) in place of 1.
    torch.testing.assert_close(ours, theirs, rtol=1e-5 if spacing == "leading" else 3e-3, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        {"shift": 3.0},
        {"shift": 1.0},
        {"use_dynamic_shifting": True, "shift": 3.0},
        {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 2.0, "max_shift": 4.0},
    ],
)
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5, 28])
def test_flow_grids_are_the_schedulers(config: dict, even: bool, steps: int):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    found = scheduler.config
    lengths = found.base_image_seq_len, found.max_image_seq_len, found.base_shift, found.max_shift
    mu = calculate_shift(1024, *lengths) if found.use_dynamic_shifting else None
    sigmas = torch.linspace(1, 1 / steps, steps).tolist() if even else None
    scheduler.set_timesteps(steps, sigmas=sigmas, mu=mu)
    description = {"_class_name": "FlowMatchEulerDiscreteScheduler", **found}
    times = flow_from_scheduler(description, "test", 1024, even).solver_grid(steps)
    if found.shift_terminal and steps == 1:
        assert not scheduler.sigmas.isfinite().all() and times == [1.0]  # diffusers divides by zero
        return
    torch.testing.assert_close(torch.tensor(times), scheduler.sigmas[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 5, 30])
def test_grid_of_unipc_on_flows(steps: int):
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(steps)
    description = {"_class_name": "UniPCMultistepScheduler", **scheduler.config}
    process = flow_from_scheduler(description, "test", 1024, even=False)
    assert process.shift == 5.0
    torch.testing.assert_close(torch.tensor(process.solver_grid(steps)), scheduler.sigmas[:-1], rtol=1e-5, atol=2e-6)


def test_shift_is_that_of_student_grids_too():
    assert flow_from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "x", 1, False).grid(
        4
    ) == pytest.approx([1.0, 0.9, 0.75, 0.5])
    dynamic = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    assert flow_from_scheduler(dynamic, "x", 4096, True).shift == pytest.approx(math.exp(1.15))
    assert PipelineFlow(2.0).solver_grid(3) == pytest.approx(PipelineFlow(2.0).grid(3))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"_class_name": "PNDMScheduler"}, "PNDMScheduler, which is not one for flows"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "epsilon"}, "not one for flows"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}, "has use_karras_sigmas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "has invert_sigmas"),
    ],
)
def test_other_schedulers_are_refused(config: dict, match: str):
    with pytest.raises(UserError, match=match):
        flow_from_scheduler(config, "test", 1024, even=False)


def test_unknown_spacing_is_refused():
    with pytest.raises(UserError, match="timestep_spacing 'random'"):
        PipelineVP.from_scheduler({**SDXL, "timestep_spacing": "random"}, "test")


def test_zero_terminal_snr_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = VP()._table(torch.device("cpu"))
    given = 1.0 - (betas[1:] - betas[:-1]).exp()
    expected = torch.cumprod(1.0 - rescale_zero_terminal_snr(given.clone()), 0)
    torch.testing.assert_close(zero_terminal(given), expected, rtol=1e-9, atol=1e-12)
