"""The paired regression: pairs of the batch, of a folder, of the solver; L2 and LPIPS; and DMD that is made with it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from every_method import fit
from torch import Tensor
from toys import CLASSES, build, network

from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras import LPIPS, PairedRegression, PerceptualDistance
from fastgen.methods import DMD, DMD2, KD
from fastgen.randomness import Draws
from fastgen.sampling.solvers import Euler
from fastgen.storage.pair_files import FORMAT, claim, shard_path, write_shard
from fastgen.storage.pair_folder import PairFolder

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES


class Alone(Distiller):
    """A method whose loss is the extra's."""


class Slanted(PerceptualDistance):
    """``(3 a_0 - 3 b_0)^2``."""

    def forward(self, samples: Tensor, targets: Tensor) -> Tensor:
        return (3.0 * (samples - targets)[:, 0]).square()


def double(seed: int) -> Any:
    return network(seed).double()


def made(cls: type[Distiller] = Alone, extra: PairedRegression | None = None, **kwargs: Any) -> Any:
    roles = {name: partial(double, seed) for seed, name in enumerate(("teacher", "student"))}
    if cls in (DMD, DMD2):
        roles["critic"] = partial(double, 2)
    method = build(cls, **roles, **({"extras": [extra]} if extra else {}), **kwargs)
    method.configure_model()
    method.__dict__["_trainer"] = type("", (), {"training": False, "global_step": 0})
    return method


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def paired() -> MicroBatch:
    return MicroBatch(numbers(6, 2), {"label": LABEL}, Draws(1, range(6), "train"), noise=numbers(6, 2, seed=1))


def test_alone_it_is_knowledge_distillation():
    extra, kd = made(extra=PairedRegression(weight=1.0)), made(KD)
    one, other = extra.losses("student", paired())["paired"], kd.losses("student", paired())["regression"]
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    found = (torch.autograd.grad(loss, list(m.student.parameters())) for loss, m in ((one, extra), (other, kd)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_students_own_images_cost_nothing_and_the_weight_is_the_papers():
    method, piece = made(extra=PairedRegression()), paired()
    noise, t = piece.noise, torch.full((6,), 80.0, dtype=torch.float64)
    with torch.no_grad():
        piece.x0 = method.student(method.student.process.start(noise, t), t, {"label": LABEL}).x0
    assert method.losses("student", piece)["paired"] < 1e-24
    moved = paired()
    moved.x0 = piece.x0 + 2.0
    torch.testing.assert_close(method.losses("student", moved)["paired"].item(), 0.25 * 0.5 * 4.0, rtol=1e-9, atol=0)


def test_without_pairs_the_solver_makes_them():
    method = made(extra=PairedRegression(weight=1.0), solver=Euler(4))
    piece = MicroBatch(None, {"label": LABEL}, Draws(1, range(6), "train"))
    loss = method.losses("student", piece)["paired"]
    noise, x0 = piece.pair
    torch.testing.assert_close(x0, Euler(4).solve(method.teacher, noise, {"label": LABEL}))
    assert loss > 0


def folder(path: Path) -> PairFolder:
    """Ten pairs in shards of four, whose label is their number."""
    shape = {"sample_shape": [2], "condition": ["label"], "num_classes": 3}
    claim(path, {"format": FORMAT, "count": 10, "shard_size": 4, "first_seed": 50, "noise": False, **shape})
    for number, rows in enumerate((range(4), range(4, 8), range(8, 10))):
        tensors = {"seed": torch.tensor([50 + i for i in rows]), "x0": torch.tensor([[i, -i] for i in rows]).float()}
        write_shard(shard_path(path, number), tensors, {"label": torch.tensor([i % 3 for i in rows])})
    return PairFolder(path)


def test_pairs_of_a_folder_belong_to_their_sample(tmp_path: Path):
    """Row, noise and condition of one pair; which one is a function of the sample's number and of nothing else."""
    folder(tmp_path / "pairs")
    extra = PairedRegression(pairs=str(tmp_path / "pairs"))
    method, draws = made(extra=extra), Draws(1, range(40), "train")
    noise, x0, condition = extra.pairs(method, MicroBatch(None, {}, draws))
    chosen = x0[:, 0].long()
    assert set(chosen.tolist()) == set(range(10)) and noise.dtype == torch.float64
    assert torch.equal(condition["label"], chosen % 3)
    torch.testing.assert_close(noise, Draws(0, (50 + chosen).tolist(), "sample").normal("noise", (2,)).double())
    part = MicroBatch(None, {}, draws.part(10, 14))
    assert all(map(torch.equal, extra.pairs(method, part)[:2], (noise[10:14], x0[10:14])))
    fit(build(DMD2, extras=[PairedRegression(pairs=str(tmp_path / "pairs"))]), 2)
    with pytest.raises(UserError, match="does not exist"):
        made(extra=PairedRegression(pairs=str(tmp_path / "nothing")))


def test_a_perceptual_distance_sees_decoded_samples():
    method, piece = made(extra=PairedRegression(weight=0.5, perceptual=Slanted)), paired()
    found = method.losses("student", piece)["paired"]
    t = torch.full((6,), 80.0, dtype=torch.float64)
    x = method.student(80.0 * piece.noise, t, {"label": LABEL}).x0
    torch.testing.assert_close(found.double(), 0.5 * (6.0 * (x - piece.x0)[:, 0]).square().mean(), rtol=1e-5, atol=0)


def test_lpips_is_that_of_the_metrics(tmp_path: Path):
    from fastgen.metrics.extractors.lpips import Lpips

    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeeze.pth")
    images = (torch.randint(256, (2, 2, 3, 40, 40), generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    a, b = (images.float() / 127.5 - 1).unbind()
    distance = LPIPS("squeeze", str(tmp_path / "squeeze.pth"))
    reference = Lpips("squeeze", str(tmp_path / "squeeze.pth"))
    torch.testing.assert_close(distance(a, b), reference(*images.unbind()), rtol=1e-5, atol=1e-7)
    assert distance(a, a).abs().max() == 0.0
    grey = a[:, :1].requires_grad_()
    larger = LPIPS("squeeze", str(tmp_path / "squeeze.pth"), size=64)
    (slope,) = torch.autograd.grad(larger(grey, b[:, :1]).sum(), grey)
    assert slope.abs().sum() > 0
    with pytest.raises(UserError, match="size must be"):
        LPIPS("squeeze", str(tmp_path / "squeeze.pth"), size=16)


def test_dmd_without_its_regression_is_dmd2_without_its_schedule():
    """Specification, addendum F: weight 0 and 1:1 updates."""
    piece, turns = paired(), UpdateSchedule(critic_first=False, reuse_rollout=True)
    one, other = made(DMD, PairedRegression(weight=0.0)), made(DMD2, schedule=turns)
    losses = one.losses("student", piece)
    assert losses.keys() == {"match", "paired"} and losses["paired"] == 0.0
    assert one.turns(0) == one.turns(1) == other.turns(0) == ("student", "critic")
    found = torch.autograd.grad(sum(losses.values()), list(one.student.parameters()))
    plain = torch.autograd.grad(sum(other.losses("student", paired()).values()), list(other.student.parameters()))
    assert all(map(torch.equal, found, plain))
    assert [type(extra) for extra in build(DMD).each_extra()] == [PairedRegression]
