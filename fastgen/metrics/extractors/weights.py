"""Where the weights of other people's networks come from: a path, a cache, a download, or one sentence that says so."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.storage.files import load_tensors, load_torch, resolve, sha256

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SECONDS_TO_ANSWER = 10.0
"""A server that has said nothing for so long counts as out of reach."""


@dataclass(frozen=True)
class Release:
    """A published file of weights.

    Attributes:
        files: Its name; with several names, whichever comes first in the repository.
        url: Where it lies, or
        repository: the Hugging Face repository in which it lies.
    """

    files: tuple[str, ...]
    url: str | None = None
    repository: str | None = None

    @property
    def place(self) -> str:
        """Where a user gets it."""
        return self.url or f"https://huggingface.co/{self.repository}"


def find_weights(path: str | None, release: Release, what: str, option: str = "weights") -> Path:
    """The file at ``path``, or that of ``release`` from the cache that it shares with other tools, or downloaded.

    A name that ends in ``-<hex digits>.pth``, as those of PyTorch do, promises the sha256; the promise is checked.

    Args:
        path: As the user wrote it; ``None`` for the published file.
        release: The published file.
        what: Who needs it.
        option: The option that takes a path.

    Raises:
        UserError: If the file does not exist, is damaged, or cannot be downloaded.
    """
    if path is not None:
        found = resolve(path)
        if not found.is_file():
            raise UserError(f"'{path}' is no file; give the file with the weights of {what} as '{option}'.")
    elif release.url is not None:
        found = Path(torch.hub.get_dir()) / "checkpoints" / release.files[0]
        if not found.exists():
            _download(release, found, what, option)
    else:
        found = _from_hub(release, what, option)
    promised = re.search(r"-([0-9a-f]{8,64})\.pth$", found.name)
    if promised and not (digest := sha256(found)).startswith(promised[1]):
        raise UserError(f"'{found}' is damaged: its sha256 is {digest[:16]}...; get it again from {release.place}.")
    return found


def _refuse(release: Release, what: str, option: str, reason: object) -> UserError:
    return UserError(
        f"{what} needs the file '{release.files[0]}', which is not on this machine and cannot be downloaded "
        f"({reason}); get it from {release.place} and give its path as '{option}'."
    )


def _reach(address: str) -> None:
    """Ask once: the clients of the hub would ask for half a minute before they give up."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        return  # it answered


def _download(release: Release, target: Path, what: str, option: str) -> None:
    assert release.url is not None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _reach(release.url)
        torch.hub.download_url_to_file(release.url, str(target))
    except OSError as error:
        raise _refuse(release, what, option, getattr(error, "reason", error)) from error


def _from_hub(release: Release, what: str, option: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    assert release.repository is not None
    for file in release.files:
        cached = try_to_load_from_cache(release.repository, file)
        if isinstance(cached, str):
            return Path(cached)
    reason: Any = "the repository has no such file"
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        _reach(constants.ENDPOINT)
        for file in release.files:
            try:
                return Path(hf_hub_download(release.repository, file))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except (OSError, ValueError) as error:  # the hub's errors are of either kind
        reason = getattr(error, "reason", str(error).splitlines()[0])
    raise _refuse(release, what, option, reason)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a PyTorch checkpoint, bare or under ``state_dict`` or ``model``.

    PyTorch files are read with ``weights_only=True``, so no code in them runs. A prefix ``module.`` is taken off.

    Raises:
        UserError: If the file is no such file.
    """
    tensors: Any = load_tensors(path)[0] if path.suffix == ".safetensors" else load_torch(path)
    for key in ("state_dict", "model"):
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"'{path}' holds no table of tensors; give a file of weights.")
    if not all(isinstance(name, str) for name in tensors):
        raise UserError(f"'{path}' holds tensors without names; give a file of weights.")
    if bad := next((name for name, t in tensors.items() if t.dtype in FLOATS and t.isnan().any()), None):
        raise UserError(f"'{path}' holds '{bad}' with values that are no numbers (NaN); get the file again.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
