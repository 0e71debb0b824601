"""What lies in a part of a local diffusers pipeline, and what is wrong with it: each fault its own sentence.

The libraries that read these files report many faults by one exception, and some not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastgen.errors import UserError
from fastgen.storage.files import ASSETS

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<first>[\w-]+?))?(?:-\d{5}-of-\d{5})?(?:\.(?P<last>\w+))?\.safetensors"
)
"""Names of weight files; the infix of a variant stands before or after the number of a shard."""
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
MINIATURES = ("emoji-sd", "emoji-sd3", "emoji-wan")
"""Pipelines that are called by name; docs/miniatures.md says how they were made."""


def local_folder(pretrained: str) -> Path:
    """The folder that ``pretrained`` means here: a path, there or not, or that of a miniature.

    Raises:
        UserError: If it is a miniature that is not there.
    """
    if pretrained not in MINIATURES or Path(pretrained).is_dir():
        return Path(pretrained).expanduser()
    folder = ASSETS / "miniatures" / pretrained
    if not folder.is_dir():
        raise UserError(
            f"The miniature '{pretrained}' is not part of this installation; take fastgen/assets/miniatures from a "
            "checkout of the repository, or train it as docs/miniatures.md says and give its folder."
        )
    return folder


def variants(folder: Path) -> set[str | None]:
    """The variants of the weights in a folder; None are the plain files."""
    found = (WEIGHTS.fullmatch(file.name) for file in folder.glob("*.safetensors"))
    return {match["first"] or match["last"] for match in found if match}


def usable_variant(pipeline: Path, part: str, wanted: str | None) -> str | None:
    """The variant of a part that can be read: the wanted one, or the only one there is.

    A pipeline saved with a variant may have parts without it.

    Raises:
        UserError: If it has to be chosen.
    """
    there = variants(pipeline / part)
    if not there or wanted in there:
        return wanted
    names = ", ".join(sorted(name or "the plain one" for name in there))
    if wanted is None:
        if len(there) == 1:
            return next(iter(there))
        raise UserError(f"'{pipeline / part}' has weights of the variants {names} only; set 'variant' to one of them.")
    elsewhere = any(wanted in variants(folder) for folder in pipeline.iterdir() if folder.is_dir())
    if elsewhere and None in there:
        return None
    raise UserError(f"'{pipeline / part}' has no weights of the variant '{wanted}', but {names}; change 'variant'.")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a configuration file.

    Raises:
        UserError: If the file is missing or holds something else.
    """
    if not file.is_file():
        raise UserError(f"'{file}' is missing; copy or download it too.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is not JSON ({first_line(error)}); copy or download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{file}' holds no JSON object; copy or download it again.")
    return content


def check_weights(folder: Path, variant: str | None) -> None:
    """Look at the weights of a part before they are read.

    Raises:
        UserError: If they are pickled, missing, or lack a shard.
    """
    names = sorted(file.name for file in folder.glob("*"))
    if not any(name.endswith(".safetensors") for name in names):
        if pickles := [name for name in names if name.endswith(PICKLES)]:
            raise UserError(
                f"'{folder}' has its weights only as a pickle ('{pickles[0]}'), which is never opened "
                "because it can run code; save the pipeline again with safe_serialization=True."
            )
        raise UserError(f"'{folder}' has no weights (.safetensors); copy or download them too.")
    shards = [name for name in names if re.search(r"-\d{5}-of-\d{5}", name) and name.endswith(".safetensors")]
    indices = [name for name in names if ".safetensors.index" in name]
    if shards and not indices and shards == [name for name in names if name.endswith(".safetensors")]:
        raise UserError(f"'{folder}' has shards of its weights but no .index.json; copy or download it too.")
    infix = "" if variant is None else f".{variant}"
    for index in (name for name in indices if name.endswith(f".safetensors.index{infix}.json")):
        table = read_json(folder / index).get("weight_map")
        wanted = sorted(set(table.values())) if isinstance(table, dict) else []
        if lacking := [name for name in wanted if name not in names]:
            raise UserError(f"'{folder}' lacks '{lacking[0]}', which its {index} names; copy or download it too.")


def check_tokenizer(folder: Path) -> None:
    """Without its vocabulary a tokenizer is made all the same, and knows no word.

    Raises:
        UserError: If there is no vocabulary, or a file is not JSON.
    """
    for file in sorted(folder.glob("*.json")):
        read_json(file)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(f"'{folder}' has no vocabulary ({', '.join(VOCABULARIES[:2])}, ...); copy or download it too.")
    if (folder / "vocab.json").is_file() and not any(
        (folder / name).is_file() for name in ("tokenizer.json", "merges.txt")
    ):
        raise UserError(f"'{folder / 'merges.txt'}' is missing; copy or download it too.")


def damaged(folder: Path) -> Iterator[tuple[Path, str]]:
    """The weight files of a folder that are not whole safetensors, with the reason."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            yield file, first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")


def missing_library(error: BaseException) -> str | None:
    """The name on the package index of the library that an exception asks for."""
    text = str(error)
    asked = re.search(r"pip3? install (?:-[-\w]+ )*['\"`]?([A-Za-z][\w.-]*)", text)
    known = re.search(r"(?i)\b(sentencepiece|tiktoken|ftfy|protobuf|optimum-quanto|bitsandbytes|accelerate)\b", text)
    if isinstance(error, ImportError):
        found = asked or known
        return found[1].lower() if found else error.name
    return known[1].lower() if known and re.search(r"(?i)install|not found", text) else None
