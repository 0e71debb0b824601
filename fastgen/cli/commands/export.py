"""``fastgen export``: a student as a folder that diffusers loads without fastgen, whole or as a LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, get_args

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.cli.commands.parser import MOST_STEPS, OptionParser, add_trust, whole
from fastgen.errors import UserError
from fastgen.methods import Distiller
from fastgen.refusals import refuse_unwritable
from fastgen.storage.writing import folder_written_atomically

Format = Literal["pipeline", "lora", "kohya"]


def export(words: Sequence[str]) -> None:
    """Write a diffusers pipeline or a LoRA from a checkpoint.

    Raises:
        UserError: On bad options, or if the student cannot be expressed in diffusers.
    """
    parser = OptionParser("fastgen export", description=__doc__)
    parser.add_argument("--ckpt", required=True, help="checkpoint of 'fastgen fit'")
    parser.add_argument("--out", required=True, help="folder to write, new or empty")
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        default="pipeline",
        help="a whole diffusers pipeline (default; adapters are merged), or a LoRA in diffusers' or in kohya's dialect",
    )
    parser.add_argument("--steps", type=int, default=None, help="network calls per sample; default as trained")
    parser.add_argument("--role", default="average", help="average (EMA, default), student or an EMA's name")
    add_trust(parser)
    arguments = parser.parse_args(list(words))
    if arguments.role == "teacher":
        raise UserError("--role teacher has nothing to export; use the teacher's own folder.")
    whole(1, MOST_STEPS, steps=arguments.steps)
    refuse_unwritable(arguments.out, folder=True)

    method = method_from_checkpoint(arguments.ckpt, trust=arguments.trust)
    told = write_export(method, Path(arguments.out), arguments.format, arguments.steps, arguments.role)
    print(f"{told}: {arguments.out}")


def write_export(method: Distiller, out: Path, format: Format, steps: int | None, role: str) -> str:
    """Write a student of ``method``; what it is, e.g. ``UNet2DConditionModel with 4 steps``.

    Raises:
        UserError: If the student cannot be expressed in diffusers.
    """
    from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
    from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
    from fastgen.export.lora import export_lora
    from fastgen.export.pipeline import export_pipeline, refuse_used
    from fastgen.export.sampling import network_of, sampling_of

    student = method.network(role)
    sampling = sampling_of(method, role, steps)
    network = network_of(student)
    if format != "pipeline" and not isinstance(student, AdaptedDenoiser):
        raise UserError(f"This student is a whole {type(network).__name__}, not a LoRA; leave --format {format} out.")
    if format != "pipeline" and sampling.second_time is not None:
        raise UserError(
            f"A LoRA of the teacher cannot hold where a jump ends; leave --format {format} out for a whole pipeline."
        )
    refuse_used(out)
    with folder_written_atomically(out) as folder:
        if format == "pipeline":
            merged = student.merged() if isinstance(student, AdaptedDenoiser) else network
            export_pipeline(cast(PipelineDenoiser, merged), sampling, folder)
        else:
            export_lora(cast(AdaptedDenoiser, student), sampling, format, folder)
    return f"{type(network).__name__} with {len(sampling.times)} steps"
