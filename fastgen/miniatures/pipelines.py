"""Pipeline folders out of configurations: what has weights is taken over, what has none begins at random."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.denoisers.base import load_strictly
from fastgen.denoisers.diffusers.pipeline_files import VOCABULARIES, read_json
from fastgen.denoisers.diffusers.pipeline_folder import only_errors
from fastgen.errors import UserError
from fastgen.storage.files import load_tensors, write_json

LIBRARIES = ("diffusers", "transformers")
"""Whose classes an index may name; nothing else is imported."""


def class_of(part: str, entry: Any, source: Path) -> Any:
    """The class that an entry of ``model_index.json`` names, ``None`` if it names none.

    Raises:
        UserError: If it is not one of diffusers or transformers.
    """
    if not isinstance(entry, list) or not any(entry):
        return None
    import diffusers
    import transformers

    library, name = entry
    found = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), str(name), None)
    if found is None:
        raise UserError(
            f"'{source / 'model_index.json'}' makes '{part}' a {library}.{name}; name a class of "
            f"{' or '.join(LIBRARIES)}."
        )
    return found


def at_random(kind: Any, folder: Path) -> Any:
    """A network of the class ``kind`` by the ``config.json`` of a folder, with random weights."""
    config = read_json(folder / "config.json")
    with only_errors():
        if hasattr(kind, "config_class") and kind.config_class is not None:  # of transformers
            return kind(kind.config_class(**config))
        return kind.from_config(config)


def weights_of(part: str, file: Path) -> dict[str, Tensor]:
    """The weights of a part out of a denoiser's ``student.safetensors``, which holds them under the part's name."""
    tensors, _ = load_tensors(file)
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items()}


def set_entries(part: str, network: Any, entries: Mapping[str, Any]) -> None:
    """Change entries of the configuration of a diffusers network, which keeps its weights.

    Raises:
        UserError: If it has no such entry.
    """
    known = getattr(network, "config", {})
    if unknown := [name for name in entries if name not in known or not hasattr(network, "register_to_config")]:
        raise UserError(f"The configuration of '{part}' has no entry '{unknown[0]}' that could be set.")
    if entries:
        network.register_to_config(**entries)


def write(network: Any, folder: Path, half: bool) -> None:
    """Write a network, in fp16 if asked to; its configuration does not say where it lay on this machine."""
    (network.half() if half else network).save_pretrained(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {name: value for name, value in config.items() if name != "_name_or_path"})


def make_pipeline(
    like: Path,
    out: Path,
    parts: Mapping[str, Path],
    seed: int = 0,
    half: bool = False,
    entries: Mapping[str, Mapping[str, Any]] = {},
) -> None:
    """Write a folder in a released format.

    Args:
        like: A folder with ``model_index.json`` and a folder per part: its configuration alone, or with weights.
        out: Where to write.
        parts: What stands for parts of ``like``, by name: folders, which are brought to the class that its index names,
            or the ``student.safetensors`` of a training.
        seed: Of the random weights. The global generator is left as it was.
        half: Whether weights are written in fp16.
        entries: By part, entries of a network's configuration to change that are not its shapes, such as the
            ``shift_factor`` that pipelines of SD3 want a number for.

    Raises:
        UserError: If a part is missing or is no part of this pipeline.
    """
    index = read_json(like / "model_index.json")
    kinds = {part: class_of(part, entry, like) for part, entry in index.items() if not part.startswith("_")}
    kinds = {part: kind for part, kind in kinds.items() if kind is not None}
    if unknown := {*parts, *entries} - set(kinds):
        raise UserError(f"'{like}' has no part '{min(unknown)}', but {', '.join(sorted(kinds))}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part, kind in sorted(kinds.items()):
            source = parts.get(part, like / part)
            if source.is_file():
                network = at_random(kind, like / part)
                load_strictly(network, weights_of(part, source), str(source))
                set_entries(part, network, entries.get(part, {}))
                write(network, out / part, half)
                continue
            if not source.is_dir():
                raise UserError(f"'{source}' is missing; give the folder of '{part}', or its configuration.")
            if not hasattr(kind, "parameters"):  # tokenizers, schedulers
                set_entries(part, None, entries.get(part, {}))
                if "tokenizer" in part and not any((source / name).is_file() for name in VOCABULARIES):
                    raise UserError(f"'{source}' has no vocabulary; give the folder of a tokenizer.")
                shutil.copytree(source, out / part, dirs_exist_ok=True)
                continue
            if any(source.glob("*.safetensors")):
                with only_errors():
                    network = kind.from_pretrained(source, use_safetensors=True)
            else:
                network = at_random(kind, source)
            set_entries(part, network, entries.get(part, {}))
            write(network, out / part, half)
    shutil.copy(like / "model_index.json", out / "model_index.json")
