"""``python -m fastgen.miniatures``: makes tokenizers and pipeline folders, and trains parts of miniatures."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastgen.cli.main import sentence_of
from fastgen.cli.noise import silence_noise
from fastgen.errors import Malformed, UserError
from fastgen.storage.documents import parse_json


def tokenizer(words: Sequence[str]) -> None:
    """Write a tokenizer of the captions' words: CLIP's for pictures, T5's for clips."""
    from fastgen.data.emoji.captions import words_of
    from fastgen.data.emoji.drawings import read_drawings
    from fastgen.data.emoji.motions import words_of_motions
    from fastgen.miniatures.tokens import LENGTH, make_t5_tokenizer, write_tokenizer

    parser = argparse.ArgumentParser(prog="python -m fastgen.miniatures tokenizer", description=tokenizer.__doc__)
    parser.add_argument("--drawings", default="asset:emoji_drawings.txt", help="list of the drawings")
    parser.add_argument("--kind", choices=("clip", "t5"), default="clip", help="t5 also knows what clips do")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a text")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(words)
    known = words_of(list(read_drawings(options.drawings)))
    if options.kind == "t5":
        make_t5_tokenizer([*known, *words_of_motions()], options.length).save_pretrained(options.out)
    else:
        write_tokenizer(options.out, known, options.length)


def entries_of(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``PART.ENTRY=VALUE`` by part and entry.

    Raises:
        UserError: If one is written otherwise.
    """
    entries: dict[str, dict[str, Any]] = {}
    for word in words:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.+)", word)
        try:
            value = parse_json(match[3]) if match else None
        except Malformed:
            match = None
        if match is None:
            raise UserError(f"--set is PART.ENTRY=VALUE with a value in JSON, got '{word}'.")
        entries.setdefault(match[1], {})[match[2]] = value
    return entries


def pipeline(words: Sequence[str]) -> None:
    """Write a pipeline folder: parts with weights are taken over, the others begin at random."""
    from fastgen.miniatures.pipelines import make_pipeline

    parser = argparse.ArgumentParser(prog="python -m fastgen.miniatures pipeline", description=pipeline.__doc__)
    parser.add_argument("--like", type=Path, required=True, help="folder with model_index.json and configurations")
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a part from elsewhere: a folder, or student.safetensors of a training",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.ENTRY=VALUE",
        help="an entry of a network's configuration, in JSON, such as vae.shift_factor=0.0",
    )
    parser.add_argument("--half", action="store_true", help="write weights in fp16")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(words)
    if wrong := next((part for part in options.part if "=" not in part), None):
        raise UserError(f"--part is NAME=PATH, got '{wrong}'.")
    parts = {name: Path(folder) for name, folder in (part.split("=", 1) for part in options.part)}
    make_pipeline(options.like, options.out, parts, options.seed, options.half, entries_of(options.set))


def fit(words: Sequence[str]) -> None:
    """Train a part from a config, by Lightning's own command line."""
    from lightning.pytorch.cli import LightningCLI

    from fastgen.data import DistillationData
    from fastgen.miniatures.training import PartTraining

    sys.argv = ["fastgen.miniatures", "fit", *words]  # Lightning starts further processes with them
    LightningCLI(
        PartTraining,
        DistillationData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        trainer_defaults={"max_epochs": -1, "use_distributed_sampler": False, "num_sanity_val_steps": 0},
        auto_configure_optimizers=False,
    )


COMMANDS = {"tokenizer": tokenizer, "pipeline": pipeline, "fit": fit}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user is one sentence and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    silence_noise()
    try:
        if not words or words[0] not in COMMANDS:
            raise UserError(f"Give a command of python -m fastgen.miniatures: {', '.join(COMMANDS)}.")
        COMMANDS[words[0]](words[1:])
    except Exception as error:
        if (said := sentence_of(error)) is None:
            raise
        print(f"fastgen: {said}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
