"""Several networks as one: who answers, who learns, and how they come into being."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from toys import CLASSES, network

from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.wrappers.experts import Experts
from fastgen.denoisers.wrappers.guided import guided
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.errors import UserError
from fastgen.objectives.tangents import jvp
from fastgen.processes import EDM

T = torch.tensor([70.0, 5.0, 4.9, 1.0, 0.3, 20.0], dtype=torch.float64)
LABEL = {"label": torch.arange(6) % CLASSES}


def experts() -> Experts:
    return Experts([network(0), network(1), network(2)], [5.0, 1.0])


def test_every_sample_is_answered_by_the_network_of_its_level():
    """A boundary belongs to the cleaner side, where the next phase begins."""
    x, student = torch.randn(6, 2), experts()
    expected = [0, 1, 1, 2, 2, 0]
    found = student(x, T, LABEL).x0
    for i, index in enumerate(expected):
        alone = student.expert(index)(x[i : i + 1], T[i : i + 1], {"label": LABEL["label"][i : i + 1]}).x0
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-6, atol=1e-6)
    double = guided(student, x, T, LABEL, 2.0)
    torch.testing.assert_close(double.cond.x0, found, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(double.x0, 2 * double.cond.x0 - double.uncond.x0)


def test_only_the_asked_network_learns_and_is_called():
    student, calls = experts(), []
    for index in range(3):
        student.expert(index).register_forward_pre_hook(lambda _, args, i=index: calls.append((i, len(args[0]))))
    student(torch.randn(6, 2), torch.full((6,), 3.0, dtype=torch.float64), LABEL).x0.square().sum().backward()
    assert calls == [(1, 6)]
    assert [all(p.grad is not None for p in student.expert(i).parameters()) for i in range(3)] == [False, True, False]


def test_networks_may_predict_different_things():
    class Noise(MLP):
        """The same network, which says it in noise."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(EDM(), **kwargs)
            self.prediction = "noise"

        def predict(self, x_t: torch.Tensor, t: torch.Tensor, *args: Any) -> torch.Tensor:
            return (x_t - super().predict(x_t, t, *args)) / t.float()[:, None]

    other = Noise(width=16, depth=2, num_classes=CLASSES)
    other.load_state_dict(network(1).state_dict())
    x = torch.randn(6, 2)
    mixed, plain = Experts([network(0), other], [5.0]), Experts([network(0), network(1)], [5.0])
    torch.testing.assert_close(mixed(x, T, LABEL).x0, plain(x, T, LABEL).x0, rtol=1e-4, atol=1e-4)


def test_derivatives_run_through_the_answering_network():
    student, v = experts().double(), torch.randn(6, 2, dtype=torch.float64)
    x, ones = torch.randn(6, 2, dtype=torch.float64), torch.ones_like(T)
    found = jvp(lambda x, t: student(x, t, LABEL).x0, (x, T), (v, ones))
    h = 1e-6
    for i, index in enumerate([0, 1, 1, 2, 2, 0]):
        row, asked = slice(i, i + 1), student.expert(index)
        ends = [asked(x[row] + e * v[row], T[row] + e, {"label": LABEL["label"][row]}).x0 for e in (h, -h)]
        torch.testing.assert_close(found[row], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-7)


def test_copies_begin_equal_and_adapters_share_their_network():
    first = network(0)
    for index in range(3):
        twin = Experts.copies(first, [5.0, 1.0]).expert(index)
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), first.parameters(), strict=True))
    base = network(0).requires_grad_(False)
    adapted = Experts.copies(LoRA(rank=2).attach(base), [5.0])
    assert adapted.expert(0).base is adapted.expert(1).base is base
    assert not set(map(id, adapted.expert(0).parameters())) & set(map(id, adapted.expert(1).parameters()))
    assert len(list(adapted.parameters())) == 2 * len(list(adapted.expert(0).parameters()))


def test_adapters_of_inputs_reach_every_network():
    student = experts()
    assert not student.takes_second_time
    student.add_second_time()
    student.add_guidance_input()
    assert student.takes_second_time and all(student.expert(i).takes_second_time for i in range(3))
    told = {**LABEL, "guidance": torch.full((6,), 3.0)}
    assert torch.equal(student(torch.ones(6, 2), T, told, 0.5 * T).x0, student(torch.ones(6, 2), T, LABEL).x0)


@pytest.mark.parametrize("boundaries", [[5.0, 1.0, 0.5], [1.0, 5.0], [1.0]])
def test_wrong_boundaries_are_refused(boundaries: list[float]):
    with pytest.raises(UserError, match="2 decreasing boundaries"):
        Experts([network(0), network(1), network(2)], boundaries)


def test_weights_are_read_by_every_network():
    make = partial(MLP, EDM(), weights="asset:teacher_mixture.safetensors")
    student, alone = Experts([make(), make()], [5.0]), make()
    student.load_weights()
    alone.load_weights()
    for index in range(2):
        own = student.expert(index).state_dict()
        assert all(torch.equal(own[name], value) for name, value in alone.state_dict().items())
