"""Published objectives as a few lines on the public hooks, with nothing changed in the engine (fp64).

What breadth needs of the engine is here as a test: SenseFlow's implicit distribution alignment.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from every_method import fit
from toys import CLASSES, build, network

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras import Extra
from fastgen.methods import DMD2, Distiller
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


def part(step: int = 0) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train", step=step))


def double(seed: int, **kwargs: Any):
    return network(seed, **kwargs).double()


def made(cls: type[Distiller], process: Any = None, **kwargs: Any) -> Any:
    roles = {name: partial(double, seed, process=process) for seed, name in enumerate(("teacher", "student", "critic"))}
    method = build(cls, **roles | kwargs)
    method.configure_model()
    return method


# ---------------------------------------------------------------------- IDA


class ImplicitAlignment(Extra):
    """Implicit distribution alignment (SenseFlow, arXiv 2506.00523): after the student's update the critic follows it.

    ``critic <- decay critic + (1 - decay) student``.
    """

    def __init__(self, decay: float = 0.97) -> None:
        super().__init__()
        self.decay = decay

    @torch.no_grad()
    def after_update(self, method: Distiller, role: str) -> None:
        if role == "student":
            for kept, new in zip(method.critic.parameters(), method.student.parameters(), strict=True):
                kept.lerp_(new.to(kept.dtype), 1.0 - self.decay)


def test_the_critic_follows_the_student():
    ends = []
    for decay in (1.0, 0.9):
        method = build(DMD2, extras=[ImplicitAlignment(decay)], critic_optimizer=partial(torch.optim.SGD, lr=0.0))
        method.configure_model()
        before = [p.detach().clone() for p in method.critic.parameters()]
        fit(method, 1)
        for p, q, s in zip(method.critic.parameters(), before, method.student.parameters(), strict=True):
            torch.testing.assert_close(p, decay * q + (1 - decay) * s)
        ends.append(torch.cat([p.detach().flatten() for p in method.critic.parameters()]))
    assert not torch.allclose(*ends)
