"""``fastgen export``: a student as a folder that diffusers loads without fastgen, whole or as a LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from fastgen.checkpoints import method_from_checkpoint
from fastgen.commands.parser import MOST_STEPS, Parser, add_trust, whole
from fastgen.errors import UserError
from fastgen.refusals import refuse_unwritable
from fastgen.writing import folder_written_atomically


def export(words: Sequence[str]) -> None:
    """Write a diffusers pipeline or a LoRA from a checkpoint.

    Raises:
        UserError: On bad options, or if the student cannot be expressed in diffusers.
    """
    parser = Parser("fastgen export", description=__doc__)
    parser.add_argument("--ckpt", required=True, help="checkpoint of 'fastgen fit'")
    parser.add_argument("--out", required=True, help="folder to write, new or empty")
    parser.add_argument(
        "--format",
        choices=("pipeline", "lora", "kohya"),
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

    from fastgen.denoisers.adapters import AdaptedDenoiser
    from fastgen.denoisers.pipelines import PipelineDenoiser
    from fastgen.export import export_pipeline, network_of, refuse_used, sampling_of
    from fastgen.lora_files import export_lora

    method = method_from_checkpoint(arguments.ckpt, trust=arguments.trust)
    student = method.network(arguments.role)
    sampling = sampling_of(method, arguments.role, arguments.steps)
    network = network_of(student)
    out = Path(arguments.out)
    if arguments.format != "pipeline" and not isinstance(student, AdaptedDenoiser):
        raise UserError(
            f"This student is a whole {type(network).__name__}, not a LoRA; leave --format {arguments.format} out."
        )
    refuse_used(out)
    with folder_written_atomically(out) as folder:
        if arguments.format == "pipeline":
            merged = student.merged() if isinstance(student, AdaptedDenoiser) else student
            export_pipeline(cast(PipelineDenoiser, merged), sampling, folder)
        else:
            export_lora(cast(AdaptedDenoiser, student), sampling, arguments.format, folder)
    print(f"{type(network).__name__} with {len(sampling.times)} steps: {out}")
