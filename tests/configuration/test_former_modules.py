"""Imports of before the rooms are found, and say where their module is now; a former sampler is the two of today."""

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from toys import network

import fastgen
from fastgen.former_modules import former
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler, RenoiseSampler, StudentSampler


def test_every_former_module_is_one_of_today():
    assert len(former()) > 130 and fastgen.__version__
    for old, new in former().items():
        assert find_spec(new) is not None, new
        assert old not in sys.modules or sys.modules[old] is sys.modules[new]


@pytest.mark.parametrize(
    "old", ["fastgen.denoisers.diffusers_sd", "fastgen.methods.base", "fastgen.metrics.text_image"]
)
def test_a_former_import_gives_the_module_of_today(old: str):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is {former()[old]} now"):
        module = import_module(old)
    assert module is import_module(former()[old]) and module.__spec__.name == module.__name__ == former()[old]


def test_packages_that_were_files_offer_what_these_did():
    from fastgen.checkpoints import method_from_checkpoint
    from fastgen.export import baked_scheduler
    from fastgen.pictures import save_samples

    assert all(map(callable, (method_from_checkpoint, baked_scheduler, save_samples)))
    with pytest.raises(ImportError):
        from fastgen.export import nothing_of_the_kind  # noqa: F401


@pytest.mark.parametrize("stochastic", [True, False])
def test_a_student_sampler_is_one_of_the_two(stochastic: bool):
    now = (RenoiseSampler if stochastic else JumpSampler)([80.0, 5.0, 0.5])
    old = StudentSampler([80.0, 5.0, 0.5], stochastic=stochastic)
    assert old.moves == now.moves
    condition = {"label": torch.tensor([0, 1])}
    samples = [one.sample(network(0), Draws(1, range(2), "test"), condition) for one in (old, now)]
    assert torch.equal(*samples)
