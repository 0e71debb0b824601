"""A student that is a LoRA as a file that diffusers loads without fastgen, in the dialects that others read.

``pytorch_lora_weights.safetensors`` is diffusers' and PEFT's: ``unet.<path>.lora_A.weight``, with rank and alpha in the
file's metadata. ``lora_kohya.safetensors`` is that of kohya's scripts, which ComfyUI and A1111 read too:
``lora_unet_<path_with_underscores>.lora_down.weight``, with an ``alpha`` beside each pair.

Keys that a loader does not know are often ignored without an error (SD3 and kohya's, for one). So what was written is
loaded back through diffusers and must make the student of its base.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from fastgen.denoisers.diffusers.pipeline_folder import only_errors
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser, LowRank
from fastgen.errors import UserError
from fastgen.export.card import write_card
from fastgen.export.pipeline import refuse_used
from fastgen.export.sampling import Sampling

FILES = {"lora": "pytorch_lora_weights.safetensors", "kohya": "lora_kohya.safetensors"}
"""Dialects and the names of their files."""
ORIGINAL = {"add_embedding_linear_1": "label_emb_0_0", "add_embedding_linear_2": "label_emb_0_2"}
"""The layers that diffusers reads in kohya's dialect under their names in SDXL's original code only."""
SIDE = 8
"""Latents per side of the sample that a written file is checked with; the smallest that U-Nets can halve thrice."""


def export_lora(student: AdaptedDenoiser, sampling: Sampling, dialect: str, out: Path) -> None:
    """Write the student's changes, the scheduler that calls it, and how to use them.

    Args:
        student: A LoRA on the network of a diffusers pipeline.
        sampling: How it is sampled.
        dialect: One of ``FILES``.
        out: A folder that is new or empty.

    Raises:
        UserError: If the times cannot be baked, the folder is in use, the teacher's pipeline cannot be read, or
            diffusers does not make the student of the file.
    """
    base = cast(PipelineDenoiser, student.base)
    refuse_used(out)
    if base.lora is not None:
        raise UserError(
            f"The student's adapters belong to a teacher with the LoRA '{base.lora}' merged into its base, which no "
            "file of theirs alone brings back; leave --format out to write a pipeline."
        )
    scheduler = sampling.scheduler(base)
    name = FILES[dialect]
    tensors, metadata = _kohya(student) if dialect == "kohya" else _peft(student, base.part)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / name, {"format": "pt", **metadata})
    with only_errors():
        pipe = _without_encoders(base, scheduler)
        try:
            _check(student, pipe, out / name)
        except UserError:
            (out / name).unlink()
            raise
    scheduler.save_pretrained(out / "scheduler")
    teacher = base.pipeline
    place = "PATH_OF_THE_TEACHER" if teacher.is_local else teacher.pretrained
    revision = f', revision="{teacher.revision}"' if teacher.revision else ""
    load = [
        f'pipe = DiffusionPipeline.from_pretrained("{place}"{revision})',
        f'pipe.load_lora_weights("PATH_OF_THIS_FOLDER", weight_name="{name}")',
        f'pipe.scheduler = {type(scheduler).__name__}.from_pretrained("PATH_OF_THIS_FOLDER", subfolder="scheduler")',
    ]
    write_card(out, base, pipe, sampling, load)


def _weights(student: AdaptedDenoiser) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Path, down, up and alpha of every change."""
    for path, change in student.by_path().items():
        if not isinstance(change, LowRank):
            raise UserError(
                f"This student's layers are changed by a {type(change).__name__}, which is no LoRA; leave --format out "
                "to write a pipeline with the changes merged in."
            )
        down, up = (cast(Tensor, part.weight).detach().cpu().contiguous() for part in (change.down, change.up))
        yield path, down, up, change.scale * len(down)


def _peft(student: AdaptedDenoiser, part: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of PEFT's dialect; ``part`` is the network's name in the pipeline."""
    rows = list(_weights(student))
    tensors = {f"{path}.lora_{name}.weight": w for path, down, up, _ in rows for name, w in (("A", down), ("B", up))}
    _, down, _, alpha = rows[0]  # one rank and one alpha for all
    config = {
        "r": len(down),
        "lora_alpha": alpha,
        "target_modules": [path.removeprefix(f"{part}.") for path, *_ in rows],
    }
    return tensors, {"lora_adapter_metadata": json.dumps({f"{part}.{key}": value for key, value in config.items()})}


def _kohya(student: AdaptedDenoiser) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of kohya's dialect."""
    tensors: dict[str, Tensor] = {}
    for path, down, up, alpha in _weights(student):
        name = path.partition(".")[2].replace(".", "_")
        name = "lora_unet_" + ORIGINAL.get(name, name)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors, {}


def _without_encoders(base: PipelineDenoiser, scheduler: Any) -> Any:
    """The pipeline around ``base`` itself; nothing else than the VAE is read."""
    parts = [name for name, value in base.pipeline.index.items() if isinstance(value, list | tuple) and name != "vae"]
    return base.pipeline.assemble({**dict.fromkeys(parts), base.part: base.network, "scheduler": scheduler})


@torch.no_grad()
def _check(student: AdaptedDenoiser, pipe: Any, file: Path) -> None:
    """Compare one call of the network with the loaded file to one of the student.

    Raises:
        UserError: If they differ, or the file cannot be loaded.
    """
    base, name = student.base, type(pipe).__name__
    generator = torch.Generator().manual_seed(0)
    channels, *sides = base.sample_shape
    x_t = torch.randn(1, channels, *(min(side, SIDE) for side in sides), generator=generator)
    t = torch.full((1,), 0.5 * base.process.t_max)
    condition = {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in base.example_condition(1).items()
    }
    wanted, bare = student(x_t, t, condition).value, base(x_t, t, condition).value
    try:
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        loaded = base(x_t, t, condition).value
        pipe.unload_lora_weights()
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} cannot load a LoRA in this dialect ({reason}); choose another --format.") from error
    effect, gap = (float((other - wanted).abs().max()) for other in (bare, loaded))
    if not gap <= 1e-3 * effect + 1e-5 * float(wanted.abs().max()):  # NaN where weights are left unset
        raise UserError(
            f"{name} loads a LoRA in this dialect without an error, but not as the student: it is off by {gap:.2g} "
            f"where the LoRA changes {effect:.2g}; choose another --format."
        )
