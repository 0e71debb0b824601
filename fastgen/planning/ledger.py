"""Ledger: how many bytes of tensors are alive, and how many there were at most."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """Inside, every tensor that an operation makes is counted while its storage lives, each storage once.

    It counts what is asked of the allocator: neither fragments nor the workspace of kernels. Whether tensors have
    values or are fakes makes no difference.

    Attributes:
        now: Bytes alive.
        peak: Most bytes alive since :meth:`begin`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, weakref.finalize[..., Any]] = {}

    def begin(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return found

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor that was made elsewhere, too."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._held:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._held[key] = weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        del self._held[key]
        self.now -= size
