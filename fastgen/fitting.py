"""Does a table of tensors belong to a network?"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fastgen.errors import UserError


def number_kind(tensor: Tensor) -> str:
    """What a tensor's numbers are: ``complex``, ``real`` or ``whole``."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Names that only one side has; else those whose tensors differ in shape or in the kind of their numbers.

    torch would copy complex numbers into real ones, and fractions into whole ones, by leaving a part of them out.
    """

    def differ(name: str) -> bool:
        mine, other = own[name], given[name]
        return mine.shape != other.shape or number_kind(mine) != number_kind(other)

    return sorted(own.keys() ^ given.keys()) or sorted(filter(differ, own))


def refuse_diverged(network: nn.Module, given: Mapping[str, Tensor], path: object) -> None:
    """Raise if weights of ``network`` are given that are not finite.

    Raises:
        UserError: Naming the first one and the file ``path``.
    """
    learned = (name for name, _ in network.named_parameters(remove_duplicate=False))
    if lost := sorted(name for name in learned if name in given and not given[name].isfinite().all()):
        raise UserError(
            f"'{path}' holds weights that are not finite, first '{lost[0]}', so its run had diverged; use an earlier "
            "checkpoint."
        )
