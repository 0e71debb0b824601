"""Files: assets that ship with the package, text, JSON, safetensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.errors import UserError
from fastgen.refusals import reading, reason_of, refuse_special
from fastgen.storage.writing import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

ASSETS = Path(__file__).parents[1] / "assets"
ASSET_PREFIX = "asset:"


def resolve(path: str | os.PathLike[str]) -> Path:
    """A path as the user wrote it; ``asset:NAME`` means a file that ships with fastgen.

    Raises:
        UserError: If the file or folder does not exist or may not be looked at.
    """
    text = os.fspath(path)
    own = text.startswith(ASSET_PREFIX)
    found = ASSETS / text.removeprefix(ASSET_PREFIX) if own else Path(os.path.expanduser(text))
    with reading(text):
        try:
            found.stat()
        except FileNotFoundError as error:
            looked = f"looked at {found.absolute()}"
            raise UserError(f"'{text}' does not exist ({looked}); give the path of an existing file.") from error
    return found


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write JSON atomically."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a safetensors file atomically."""
    from safetensors.torch import save_file

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_atomically(path, lambda temporary: save_file(own, temporary, dict(metadata or {})))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: If the file cannot be read or is not a whole safetensors file.
    """
    from safetensors import safe_open

    found = resolve(path)
    if found.is_dir():
        raise UserError(f"'{path}' is a folder; give the .safetensors file in it.")
    refuse_special(found)
    with reading(path):
        try:
            with safe_open(found, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except OSError:
            raise
        except Exception as error:  # safetensors has its own, torch lacks types
            raise UserError(
                f"'{path}' is not a readable safetensors file ({reason_of(error)}); write or copy it again."
            ) from error


def load_torch(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, read with ``weights_only=True``, so no code in it runs.

    Raises:
        UserError: If the file cannot be read, is damaged, or holds other objects than tensors and plain values.
    """
    import pickle

    import torch

    refuse_special(path)
    with reading(path):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"'{path}' is damaged or holds pickled Python objects, which fastgen never loads; give a file that "
                "holds tensors only."
            ) from error
        except OSError:
            raise
        except Exception as error:  # torch and zip have an exception each, and damaged bytes find more
            raise UserError(f"'{path}' is not a readable PyTorch file ({reason_of(error)}); get it again.") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes."""
    with reading(path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
