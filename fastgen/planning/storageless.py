"""Networks without storage: what torch's fakes need to be built, cast and asked as networks are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

from fastgen.denoisers.wrappers import on_process
from fastgen.distiller.base import Distiller
from fastgen.errors import UserError
from fastgen.processes import vp
from fastgen.randomness import Draws

LAST = 1.0 - 2.0**-20
"""The largest of the numbers that a batch shares."""


def with_values(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of settings, computed as it is outside of a plan."""

    def computed(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return computed


@contextmanager
def changed() -> Iterator[None]:
    """Inside, what looks at values of a few settings finds them, and modules take tensors without storage."""
    with (
        mock.patch.object(vp, "log_alpha2_of", with_values(vp.log_alpha2_of)),
        mock.patch.object(on_process, "same_process", with_values(on_process.same_process)),
        mock.patch.object(Draws, "shared_uniform", lambda self, name: LAST),  # the longest of random rollouts
        mock.patch.object(nn.Module, "_apply", replace_all),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def build(method: Distiller, fakes: FakeTensorMode) -> None:
    """Build the networks without storage; small ones that look at their numbers are built with them first."""
    try:
        method.build_all()
    except UserError as error:
        if not isinstance(error.__cause__, DataDependentOutputException):
            raise
        with unset_fake_temporarily():
            method.build_all()
        for module in method.modules():
            owners: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for owned in owners:
                for name, value in owned.items():
                    if value is not None:
                        owned[name] = fakes.from_tensor(value)


def replace_all(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``Module._apply`` for tensors without storage, which torch's own cannot change in place."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                value = fn(parameter)
            if value.dtype != parameter.dtype:
                self._parameters[name] = nn.Parameter(value, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        self._buffers[name] = None if buffer is None else fn(buffer)
    return self
