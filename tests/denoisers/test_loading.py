"""Weights are read in the dtype that they are wanted in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from denoisers.tiny_flux import write_tiny_flux

from fastgen.denoisers.diffusers.flux import Flux


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_larger_copy_on_the_way(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from diffusers import FluxTransformer2DModel

    flux = Flux(str(write_tiny_flux(tmp_path)), resolution=16)
    flux.load_weights()
    expected = {name: value.to(dtype) for name, value in flux.network.state_dict().items()}
    flux = Flux(str(tmp_path), resolution=16).to(dtype)
    original, seen = FluxTransformer2DModel.from_pretrained, []

    def spy(*args: Any, **kwargs: Any) -> Any:
        model, report = original(*args, **kwargs)
        seen.append({p.dtype for p in model.parameters()})
        return model, report

    monkeypatch.setattr(FluxTransformer2DModel, "from_pretrained", spy)
    flux.load_weights()
    assert seen == [{dtype}]
    for name, value in flux.network.state_dict().items():
        assert torch.equal(value, expected[name])
