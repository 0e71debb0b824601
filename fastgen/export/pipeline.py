"""A student as a diffusers pipeline that samples as it was trained, without fastgen.

When it is called stands in its scheduler's configuration (:mod:`fastgen.export.schedulers`), so that whoever loads the
folder only gives the number of steps. What no configuration expresses is refused in a sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.wrappers.fake_quant import folded
from fastgen.errors import UserError
from fastgen.export.card import write_card
from fastgen.export.sampling import Sampling
from fastgen.export.schedulers import flow_map_shift


def refuse_used(out: Path) -> None:
    """Raise a ``UserError`` unless ``out`` is new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out '{out}' exists; give a folder that is new or empty.")


def export_pipeline(denoiser: PipelineDenoiser, sampling: Sampling, out: Path) -> None:
    """Write the teacher's pipeline with the student's network and scheduler in it.

    Args:
        denoiser: The student.
        sampling: How it is sampled.
        out: A folder that is new or empty.

    Raises:
        UserError: If the times cannot be baked, the folder is in use, or the teacher's pipeline cannot be read.
    """
    refuse_used(out)
    denoiser = cast(PipelineDenoiser, folded(denoiser))
    if sampling.second_time is None:
        scheduler = sampling.scheduler(denoiser)
        pipe = denoiser.pipeline.assemble({denoiser.part: denoiser.network, "scheduler": scheduler})
    else:
        second = sampling.second_time
        assert second.gate is not None  # sampling_of
        teacher = denoiser.pipeline.assemble({denoiser.part: denoiser.network})
        pipe = denoiser.flow_map_pipeline(teacher, second.gate, second.embedder, flow_map_shift(sampling.times))
    dtype = next(denoiser.network.parameters()).dtype
    pipe.to(dtype=dtype)  # transformers reads a part in the precision of its file, and a pipeline is of one only
    pipe.save_pretrained(out, safe_serialization=True)
    options = "" if dtype == torch.float32 else f", torch_dtype={dtype}"
    load = f'pipe = DiffusionPipeline.from_pretrained("PATH_OF_THIS_FOLDER"{options})'
    write_card(out, denoiser, pipe, sampling, [load])
