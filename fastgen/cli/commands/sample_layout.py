"""``fastgen sample --layout``: a folder as an external judge reads it."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from torch import Tensor

from fastgen.cli.commands.loading import method_on
from fastgen.cli.commands.parser import LARGEST, MOST, whole
from fastgen.errors import UserError
from fastgen.layouts.folders import LAYOUTS
from fastgen.layouts.manifest import claim
from fastgen.layouts.writer import fill
from fastgen.refusals import refuse_unwritable
from fastgen.storage.fingerprints import checkpoint_fingerprint


def sample_layout(arguments: argparse.Namespace) -> None:
    """Write the samples of all prompts; a second call goes on where the first was stopped.

    Raises:
        UserError: On bad options, prompts or checkpoint, or a folder made with other settings.
    """
    if not arguments.prompts:
        raise UserError(f"--layout {arguments.layout} needs --prompts FILE with the judge's prompts.")
    out, layout = Path(arguments.out).expanduser(), LAYOUTS[arguments.layout]
    if out.suffix == ".png":
        raise UserError(f"--layout {arguments.layout} writes a folder, not '{arguments.out}'; give --out FOLDER.")
    items = layout.items(arguments.prompts)
    per_prompt = layout.per_prompt if arguments.per_prompt is None else arguments.per_prompt
    whole(1, MOST // len(items), per_prompt=per_prompt)
    whole(0, LARGEST - MOST, first_seed=arguments.first_seed)
    refuse_unwritable(arguments.out, folder=True)
    layout.check(items, per_prompt)
    method = method_on(arguments.ckpt, arguments.device, arguments.role == "teacher", arguments.trust)
    if not method.student.takes_prompts:
        raise UserError(f"--layout {arguments.layout} is for checkpoints that make pictures from text; leave it out.")
    nfe = method.evaluations(arguments.role, arguments.steps)
    claim(
        out,
        {
            "layout": arguments.layout,
            "prompts": hashlib.sha256("\0".join(item.name + "\0" + item.prompt for item in items).encode()).hexdigest(),
            "per_prompt": per_prompt,
            "first_seed": arguments.first_seed,
            "checkpoint": checkpoint_fingerprint(arguments.ckpt),
            "student_updates": method.student_updates,
            "role": arguments.role,
            "nfe": nfe,
        },
    )

    def make(seeds: list[int], prompts: list[str]) -> Tensor:
        return method.sample(seeds, {"prompt": prompts}, arguments.steps, arguments.role).cpu()

    made = fill(out, layout, items, per_prompt, arguments.first_seed, arguments.batch_size, make)
    total = per_prompt * len(items)
    print(f"{total} samples ({made} new), {nfe} network calls each: {out}")
    if layout.next_step:
        print(f"Now, in the judge's environment: {layout.next_step.format(out=out, per_prompt=per_prompt)}")
        print(f"Then: fastgen scores RUN {arguments.layout}=RESULT_FILE --samples {out}")
