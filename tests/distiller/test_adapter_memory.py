"""Three roles that share one network through adapters need little more memory than that network."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import ToyData, network, trainer

from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods import DMD2

pytestmark = pytest.mark.filterwarnings("ignore")


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive: weights, gradients, moments and what a graph keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf.untyped_storage())
        return found

    def see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def models(kind: Any) -> float:
    """The peak of two updates of student and critic, over the size of the teacher."""
    with Peak() as peak:
        method = DMD2(
            teacher=lambda: network(0, width=384, depth=6),
            student=kind,
            critic=kind,
            student_optimizer=lambda params: torch.optim.Adam(params, foreach=False),
            critic_optimizer=lambda params: torch.optim.Adam(params, foreach=False),
            schedule=UpdateSchedule(),
        )
        trainer(2).fit(method, ToyData(batch_size=2))
    return peak.most / sum(p.numel() * p.element_size() for p in method.teacher.parameters())


def test_three_roles_with_adapters_fit_into_one_and_a_half_models():
    shared, copied = models(LoRA(rank=4)), models(CopyOfTeacher())
    assert 1.0 < shared < 1.5, shared
    assert copied > 7.0, copied  # three networks, two of them with two moments each
