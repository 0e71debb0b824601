"""Digests of nested values that hold tensors: what a checkpoint says, so that damage is noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 26
"""Bytes from which threads are worth their start."""


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested mappings, lists and tuples that is none of these, by its place."""
    if isinstance(value, Mapping):
        yield place, f"{len(value)} entries"
        for name, part in value.items():
            yield from leaves(part, f"{place}/{type(name).__name__} {name}")
    elif isinstance(value, list | tuple):
        yield place, f"{type(value).__name__} of {len(value)}"
        for number, part in enumerate(value):
            yield from leaves(part, f"{place}/{number}")
    else:
        yield place, value


def digest_of_tensor(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy()).hexdigest()  # type: ignore[arg-type]


def digest_of(value: Any) -> str:
    """sha256 of a nested value: names, order, kinds, numbers and texts; of tensors also dtype, shape and bytes.

    Large tensors are hashed side by side, so that the digest costs less than writing them.
    """
    found = list(leaves(value))
    tensors = [leaf for _, leaf in found if isinstance(leaf, Tensor)]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) < LARGE:
        digests = iter([digest_of_tensor(tensor) for tensor in tensors])
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = iter(list(pool.map(digest_of_tensor, tensors)))
    result = hashlib.sha256()
    for place, leaf in found:
        if isinstance(leaf, Tensor):
            said = f"{leaf.dtype} {tuple(leaf.shape)} {next(digests)}"
        else:
            said = f"{type(leaf).__name__} {leaf!r}"
        result.update(f"{place}\0{said}\0".encode("utf-8", "surrogatepass"))
    return result.hexdigest()
