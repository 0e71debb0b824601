"""What a folder of samples was made with, in a file beside it (judges take every file in it for a picture)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgen.errors import UserError
from fastgen.storage.documents import read_json
from fastgen.storage.files import write_json


def manifest_of(out: Path) -> Path:
    """``<folder>.fastgen.json``."""
    return out.with_name(f"{out.name}.fastgen.json")


def read_manifest(out: Path) -> dict[str, Any]:
    """What the samples in ``out`` were made with.

    Raises:
        UserError: If there is no such file, or it is damaged.
    """
    path = manifest_of(out)
    if not path.exists():
        raise UserError(f"'{path}' does not exist; give a folder that 'fastgen sample --layout' wrote.")
    mend = "delete it and its folder and make the samples again"
    found = read_json(path, mend)
    if not isinstance(found, dict):
        raise UserError(f"'{path}' is damaged; {mend}.")
    return found


def claim(out: Path, wanted: Mapping[str, Any]) -> None:
    """Note that ``out`` is made with ``wanted``, or check that it already is.

    Raises:
        UserError: If it was begun with something else, or holds files of unknown origin.
    """
    if manifest_of(out).exists():
        found = read_manifest(out)
        for key, value in wanted.items():
            if found.get(key) != value:
                raise UserError(
                    f"'{out}' was begun with another {key} ({found.get(key)}, now {value}); give another --out, or "
                    f"delete it and {manifest_of(out).name}."
                )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' exists and was not made by 'fastgen sample --layout'; give another --out.")
    else:
        write_json(manifest_of(out), dict(wanted))
