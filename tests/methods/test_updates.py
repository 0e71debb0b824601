"""What follows an update, what a validation says, and what a stage leaves behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import ToyData, build, network, trainer

from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.distiller.stages import overwrite, snapshot_of
from fastgen.methods import DMD2, Distiller
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")


class Follower(Extra):
    """Counts the updates that it is told of."""

    def __init__(self, start: int = 0) -> None:
        super().__init__(start=start)
        self.told: Counter[str] = Counter()

    def after_update(self, method: Distiller, role: str) -> None:
        self.told[role] += 1


class Followed(DMD2):
    """DMD2 that counts the updates that it is told of, and whose critic has no finite gradient once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.told: Counter[str] = Counter()

    def after_update(self, role: str) -> None:
        super().after_update(role)
        self.told[role] += 1

    def losses(self, role: str, part: Any) -> dict[str, Tensor]:
        broken = float("nan") if (role, self.iteration) == ("critic", 1) else 1.0
        return {name: value * broken for name, value in super().losses(role, part).items()}


def test_updates_that_were_made_are_followed_by_the_method_and_its_active_extras():
    follower, late = Follower(), Follower(start=1)
    method = build(Followed, extras=[follower, late], schedule=UpdateSchedule(critic_updates=2, critic_first=True))
    trainer(4).fit(method, ToyData())
    assert method.told == follower.told == method.updates == {"critic": 3, "student": 2}
    assert late.told == {"critic": 2, "student": 2}, "from the first student update on"


def test_a_second_turn_of_an_iteration_has_samples_of_its_own():
    method = build(DMD2)
    method.configure_model()
    part = MicroBatch(None, {"label": torch.zeros(4, dtype=torch.int64)}, Draws(0, range(4), "train"))
    made = []
    for _ in range(2):
        part.begin_turn("critic")
        made.append(method.rollout(part, "critic").x0)
        assert method.rollout(part, "critic").x0 is made[-1], "within a turn they are made once"
        part.end_turn("critic")
    assert not torch.isclose(*made).any()


def test_losses_of_a_validation_are_means_over_ranks_at_the_student_s_updates():
    method = build(DMD2)
    method.configure_model()
    said: dict[str, tuple[Any, dict[str, Any]]] = {}
    method.log = lambda name, value, **options: said.update({name: (value, options)})  # type: ignore[method-assign]
    data = ToyData(batch_size=5)
    data.setup("fit")
    trainer(1).strategy.connect(method)
    method._trainer = trainer(1)
    method.loaded_updates = 7
    method.validation_step(next(iter(data.val_dataloader())), 0)
    method.on_validation_epoch_end()
    losses = {name: options for name, (_, options) in said.items() if name.startswith("val/")}
    assert set(losses) == {"val/student/match", "val/critic/denoising"}
    assert all(options == {"batch_size": 5, "sync_dist": True, "on_epoch": True} for options in losses.values())
    assert said["step"] == (7.0, {})


def test_a_snapshot_is_a_frozen_copy_until_it_is_overwritten():
    source = nn.Sequential(network(0), nn.BatchNorm1d(2))
    source[1].running_mean.fill_(3.0)
    kept = snapshot_of(source)
    assert not kept.training and not any(parameter.requires_grad for parameter in kept.parameters())
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    with torch.no_grad():
        for value in (*source.parameters(), source[1].running_mean):
            value += 1.0
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    overwrite(kept, source)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in kept.state_dict().items())
    assert not any(parameter.requires_grad for parameter in kept.parameters())
